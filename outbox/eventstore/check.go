package eventstore

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/holdwall/outbox-relay/outbox"
)

const (
	// MaxAppend is how many events one Append takes. It bounds the statement,
	// the Kafka transaction and the memory of whoever reads it back.
	MaxAppend = 1000
	// maxName is the length of stream names and types in bytes: the outbox
	// table keeps them in varchar(255).
	maxName = 255
)

// ReservedPrefix begins the names of the headers that the stores add.
const ReservedPrefix = "eventstore."

// check finds what no store takes and fills the ids in. All stores have the
// same rules, so that a service can change its store without changing its
// events.
func check(stream string, expected ExpectedVersion, events []Event) error {
	switch {
	case stream == "":
		return &InvalidEvent{-1, "Stream", "is empty"}
	case len(stream) > maxName:
		return &InvalidEvent{-1, "Stream", fmt.Sprintf("is longer than %d bytes", maxName)}
	case textFault(stream) != "":
		return &InvalidEvent{-1, "Stream", textFault(stream)}
	case expected < Any:
		return &InvalidEvent{-1, "Expected", "is negative"}
	case len(events) == 0:
		return &InvalidEvent{-1, "Events", "are none"}
	case len(events) > MaxAppend:
		return &InvalidEvent{-1, "Events", fmt.Sprintf("are more than %d", MaxAppend)}
	}
	seen := make(map[string]bool, len(events))
	for i := range events {
		if err := events[i].check(i); err != nil {
			return err
		}
		if seen[events[i].ID] {
			return &DuplicateEvent{ID: events[i].ID, Stream: stream}
		}
		seen[events[i].ID] = true
	}
	return nil
}

func (e *Event) check(i int) error {
	if e.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("make an event id: %w", err)
		}
		e.ID = id.String()
	}
	id, err := uuid.Parse(e.ID)
	if err != nil {
		return &InvalidEvent{i, "ID", "is not a UUID"}
	}
	e.ID = id.String() // one spelling, so that equal ids are equal texts
	switch {
	case e.Type == "":
		return &InvalidEvent{i, "Type", "is empty"}
	case len(e.Type) > maxName:
		return &InvalidEvent{i, "Type", fmt.Sprintf("is longer than %d bytes", maxName)}
	}
	for _, t := range [...]struct{ field, value string }{
		{"Type", e.Type}, {"ContentType", e.ContentType}, {"TraceParent", e.TraceParent}, {"TraceState", e.TraceState},
	} {
		if bad := textFault(t.value); bad != "" {
			return &InvalidEvent{i, t.field, bad}
		}
	}
	if e.TraceParent != "" && !validTraceParent(e.TraceParent) {
		return &InvalidEvent{i, "TraceParent", "is not of the W3C form"}
	}
	if len(e.TraceState) > maxTraceState {
		return &InvalidEvent{i, "TraceState", fmt.Sprintf("is longer than %d bytes", maxTraceState)}
	}
	return checkHeaders(i, e.Headers)
}

// maxTraceState is what the W3C asks everybody to carry, and the length of the
// outbox table's column.
const maxTraceState = 512

// validTraceParent is the check that the outbox table makes as well.
func validTraceParent(s string) bool {
	if len(s) != 55 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 2 || i == 35 || i == 52:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

func checkHeaders(i int, headers []outbox.Header) error {
	for j, h := range headers {
		switch {
		case h.Key == "":
			return &InvalidEvent{i, "Headers", "have an empty name"}
		case outbox.Reserved(h.Key), strings.HasPrefix(h.Key, ReservedPrefix):
			return &InvalidEvent{i, "Headers", fmt.Sprintf("have the reserved name %q", h.Key)}
		case textFault(h.Key) != "":
			return &InvalidEvent{i, "Headers", "have a name that " + textFault(h.Key)}
		case textFault(string(h.Value)) != "":
			return &InvalidEvent{i, "Headers", fmt.Sprintf("have a value under %q that %s", h.Key, textFault(string(h.Value)))}
		}
		for _, other := range headers[:j] {
			if other.Key == h.Key {
				return &InvalidEvent{i, "Headers", fmt.Sprintf("have the name %q twice", h.Key)}
			}
		}
	}
	return nil
}

// textFault says why Postgres would refuse a text.
func textFault(s string) string {
	switch {
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	case strings.IndexByte(s, 0) >= 0:
		return "holds a zero byte"
	}
	return ""
}

// contentType is what an event without one has.
func (e *Event) contentType() string {
	if e.ContentType == "" {
		return outbox.ContentBytes
	}
	return e.ContentType
}

// entry is where an id was found.
type entry struct {
	stream  string
	version int64
}

// decide is the rule of Append, the same in all stores: what the stream is at
// and where the ids were found make it a repetition, an error, or an append.
// A repetition returns the version that it had.
func decide(stream string, expected ExpectedVersion, events []Event, head int64, found map[string]entry) (version int64, repeated bool, err error) {
	if len(found) == 0 {
		if expected != Any && int64(expected) != head {
			return 0, false, &VersionConflict{Stream: stream, Expected: expected, Actual: head}
		}
		return 0, false, nil
	}
	first, ok := found[events[0].ID]
	for i, e := range events {
		at, here := found[e.ID]
		if ok && here && at.stream == stream && at.version == first.version+int64(i) {
			continue
		}
		for _, e := range events { // name one that is there
			if at, here := found[e.ID]; here {
				return 0, false, &DuplicateEvent{ID: e.ID, Stream: at.stream, Version: at.version}
			}
		}
	}
	return first.version + int64(len(events)) - 1, true, nil
}
