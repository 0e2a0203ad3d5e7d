package dlq

import (
	"slices"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/outbox"
)

// Filter chooses letters. What is empty chooses all; of several values one has
// to match.
type Filter struct {
	IDs        []string
	Reasons    []Reason
	Codes      []string
	Groups     []string
	Aggregates []string  // type:id, or the id alone
	Since      time.Time // by when the letter was written
	Until      time.Time // exclusive
	States     []State
}

// State is a letter's as people ask for it.
type State string

// The states. A letter that is not open has the state of its mark.
const (
	StateOpen     State = "open"
	StateReplayed State = State(Replayed)
	StatePurged   State = State(Purged)
	StateReleased State = State(Released)
)

// State returns the state of a letter.
func (i *Item) State() State {
	switch {
	case i.Status.Open:
		return StateOpen
	case i.Status.Action == Deferred: // a newer letter of the event was
		return StateReplayed
	}
	return State(i.Status.Action)
}

// Match tells whether a letter is chosen.
func (f *Filter) Match(i *Item) bool {
	return among(f.States, i.State()) && among(f.Reasons, i.Reason) && among(f.Codes, i.Code) && among(f.Groups, i.Group) &&
		(f.Since.IsZero() || !i.At.Before(f.Since)) && (f.Until.IsZero() || i.At.Before(f.Until)) &&
		(len(f.IDs) == 0 || among(f.IDs, i.ID()) || among(f.IDs, markKey("", "", i.Where.Partition, i.Where.Offset))) &&
		f.matchAggregate(i)
}

func (f *Filter) matchAggregate(i *Item) bool {
	if len(f.Aggregates) == 0 {
		return true
	}
	typ, id := i.Header(outbox.HeaderAggregateType), i.Header(outbox.HeaderAggregateID)
	return slices.ContainsFunc(f.Aggregates, func(want string) bool {
		// An id may hold a colon itself.
		t, rest, cut := strings.Cut(want, ":")
		return want == id || cut && t == typ && rest == id
	})
}

func among[T comparable](wanted []T, v T) bool { return len(wanted) == 0 || slices.Contains(wanted, v) }
