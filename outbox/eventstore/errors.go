package eventstore

import (
	"errors"
	"fmt"
)

// VersionConflict is a stream that was not at the expected version. Nothing
// was written.
type VersionConflict struct {
	Stream   string
	Expected ExpectedVersion
	Actual   int64 // UnknownVersion if it could not be read any more
}

// UnknownVersion is the Actual of a conflict that only the unique key of the
// table noticed, inside a transaction of the caller's that has failed by that.
const UnknownVersion int64 = -1

func (e *VersionConflict) Error() string {
	if e.Actual == UnknownVersion {
		return fmt.Sprintf("append to stream %q: expected %s, but another transaction got there first", e.Stream, e.Expected)
	}
	return fmt.Sprintf("append to stream %q: expected %s, but it is at version %d", e.Stream, e.Expected, e.Actual)
}

// DuplicateEvent is an id that was appended before, but not as part of the
// very same sequence of events. Nothing was written.
type DuplicateEvent struct {
	ID      string
	Stream  string // that has it
	Version int64  // that it has there; 0: it is twice among the events given
}

func (e *DuplicateEvent) Error() string {
	if e.Version == 0 {
		return fmt.Sprintf("event id %s is twice among the events for stream %q", e.ID, e.Stream)
	}
	return fmt.Sprintf("event id %s is version %d of stream %q already", e.ID, e.Version, e.Stream)
}

// InvalidEvent is an event or a stream that no store takes, found before
// anything was sent.
type InvalidEvent struct {
	Index  int    // among the events given; -1 if it is about the whole call
	Field  string // of Event, or "Stream", "Expected", "Events"
	Detail string // never holds a value of the event
}

func (e *InvalidEvent) Error() string {
	if e.Index < 0 {
		return fmt.Sprintf("append: %s %s", e.Field, e.Detail)
	}
	return fmt.Sprintf("append: event %d: %s %s", e.Index, e.Field, e.Detail)
}

// PositionError is a position that this store cannot go on from.
type PositionError struct {
	Position Position
	Detail   string
}

func (e *PositionError) Error() string {
	return fmt.Sprintf("position %q %s", string(e.Position), e.Detail)
}

// LogError is a log that does not hold what only the store writes there: it
// was cut, was written to by somebody else, or comes from another cluster.
// Going on could give out a version twice or leave events out, so nothing is
// done before a person has looked.
type LogError struct {
	Log    string // table, or topic/partition
	Place  string // offset or position; "" if it is about the whole
	Detail string
}

func (e *LogError) Error() string {
	if e.Place == "" {
		return fmt.Sprintf("event log %s %s", e.Log, e.Detail)
	}
	return fmt.Sprintf("event log %s at %s %s", e.Log, e.Place, e.Detail)
}

// OutcomeUnknown is an Append of which it could not be found out whether it
// happened, because what could tell cannot be reached. Call it again with the
// same events: their ids make it one append.
type OutcomeUnknown struct {
	Stream string
	Err    error
}

func (e *OutcomeUnknown) Error() string {
	return fmt.Sprintf("append to stream %q: outcome unknown: %v", e.Stream, e.Err)
}

// Unwrap returns the cause.
func (e *OutcomeUnknown) Unwrap() error { return e.Err }

// ErrContended is an Append to a Kafka store that was fenced by others again
// and again until its attempts were used up. Nothing was written.
var ErrContended = errors.New("the partition was taken by other appenders at every attempt")
