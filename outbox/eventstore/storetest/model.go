package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

// RunModel compares a store with a list of ids per stream, over random
// sequences of appends, repetitions and loads through two handles. All
// sequences share one log, each with streams of its own.
func RunModel(t *testing.T, fresh func(t testing.TB) Rig) {
	r := fresh(t)
	handles := []eventstore.Store{r.Open(t), r.Open(t)}
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		m := &model{t: t, prefix: fmt.Sprintf("m%d-", runs), streams: map[string][]string{}, handles: handles}
		rt.Repeat(map[string]func(*rapid.T){"append": m.append, "again": m.again, "elsewhere": m.elsewhere, "load": m.load})
	})
}

type model struct {
	t       *testing.T
	prefix  string
	streams map[string][]string // ids in order
	handles []eventstore.Store
	at      int
}

// elsewhere goes on with the other handle. It is an action of its own because
// it costs a lease on a Kafka store.
func (m *model) elsewhere(*rapid.T) { m.at = 1 - m.at }

func (m *model) stream(rt *rapid.T) string {
	return m.prefix + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "stream")
}

func (m *model) expected(rt *rapid.T, head int) eventstore.ExpectedVersion {
	return rapid.SampledFrom([]eventstore.ExpectedVersion{
		eventstore.Any, eventstore.NoStream, eventstore.Exact(int64(head)), eventstore.Exact(int64(head) + 1),
	}).Draw(rt, "expected")
}

func (m *model) append(rt *rapid.T) {
	stream := m.stream(rt)
	ids := make([]string, rapid.IntRange(1, 3).Draw(rt, "events"))
	for i := range ids {
		ids[i] = uuid.NewString()
	}
	m.try(rt, stream, m.expected(rt, len(m.streams[stream])), ids)
}

// again appends ids that may be there: in any order, with new ones between
// them, or just as they were.
func (m *model) again(rt *rapid.T) {
	stream := m.stream(rt)
	old := m.streams[stream]
	if len(old) == 0 {
		rt.Skip("nothing to repeat")
	}
	from := rapid.IntRange(max(0, len(old)-5), len(old)-1).Draw(rt, "from")
	ids := slices.Clone(old[from:min(len(old), from+rapid.IntRange(1, 3).Draw(rt, "events"))])
	switch rapid.SampledFrom([]string{"as it was", "turned", "with a new one"}).Draw(rt, "how") {
	case "turned":
		slices.Reverse(ids)
	case "with a new one":
		ids = slices.Insert(ids, rapid.IntRange(0, len(ids)).Draw(rt, "place"), uuid.NewString())
	}
	m.try(rt, stream, m.expected(rt, len(old)), ids)
}

// try appends, and works out by itself what has to come of it.
func (m *model) try(rt *rapid.T, stream string, expected eventstore.ExpectedVersion, ids []string) {
	old := m.streams[stream]
	known := 0
	for _, id := range ids {
		if slices.Contains(old, id) {
			known++
		}
	}
	events := make([]eventstore.Event, len(ids))
	for i, id := range ids {
		events[i] = eventstore.Event{ID: id, Type: "x"}
	}
	version, err := m.handles[m.at].Append(within(m.t), stream, expected, events...)
	var conflict *eventstore.VersionConflict
	var duplicate *eventstore.DuplicateEvent
	place := slices.Index(old, ids[0])
	switch {
	case known > 0 && place >= 0 && place+len(ids) <= len(old) && slices.Equal(old[place:place+len(ids)], ids):
		if err != nil || version != int64(place+len(ids)) {
			rt.Fatalf("repeating versions %d to %d: version %d, %v", place+1, place+len(ids), version, err)
		}
	case known > 0:
		if !errors.As(err, &duplicate) {
			rt.Fatalf("%d of %d ids are there: version %d, %v", known, len(ids), version, err)
		}
	case expected != eventstore.Any && int64(expected) != int64(len(old)):
		if !errors.As(err, &conflict) || conflict.Actual != int64(len(old)) {
			rt.Fatalf("%v on version %d: version %d, %v", expected, len(old), version, err)
		}
	default:
		if err != nil || version != int64(len(old)+len(ids)) {
			rt.Fatalf("%v on version %d: version %d, %v", expected, len(old), version, err)
		}
		m.streams[stream] = append(old, ids...)
	}
}

func (m *model) load(rt *rapid.T) {
	stream := m.stream(rt)
	want := m.streams[stream]
	after := rapid.IntRange(0, len(want)).Draw(rt, "after")
	got := load(m.t, m.handles[m.at], stream, int64(after))
	if len(got) != len(want)-after {
		rt.Fatalf("%d events behind version %d of %d", len(got), after, len(want))
	}
	for i, ev := range got {
		if ev.ID != want[after+i] || ev.Version != int64(after+i+1) {
			rt.Fatalf("version %d is %s at %d, want %s", after+i+1, ev.ID, ev.Version, want[after+i])
		}
	}
}
