package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

// named makes events that are told apart by their type.
func named(names ...string) []eventstore.Event {
	events := make([]eventstore.Event, len(names))
	for i, n := range names {
		events[i] = eventstore.Event{Type: n, Payload: []byte(n)}
	}
	return events
}

func mustAppend(t testing.TB, s eventstore.Store, stream string, events ...eventstore.Event) int64 {
	t.Helper()
	version, err := s.Append(within(t), stream, eventstore.Any, events...)
	if err != nil {
		t.Fatalf("append to %s: %v", stream, err)
	}
	return version
}

func load(t testing.TB, s eventstore.Store, stream string, after int64) []eventstore.Recorded {
	t.Helper()
	var all []eventstore.Recorded
	for ev, err := range s.Load(within(t), stream, after) {
		if err != nil {
			t.Fatalf("load %s: %v", stream, err)
		}
		all = append(all, ev)
	}
	return all
}

// readAll reads pages until n events are there: a store may show an event a
// moment after it was appended, and nothing announces that.
func readAll(t testing.TB, s eventstore.Store, from eventstore.Position, n, page int) []eventstore.Recorded {
	t.Helper()
	ctx := within(t)
	var all []eventstore.Recorded
	for {
		events, err := s.ReadAll(ctx, from, page)
		if err != nil {
			t.Fatalf("read all from %q: %v", from, err)
		}
		if len(events) > page {
			t.Fatalf("a page of %d has %d events", page, len(events))
		}
		if len(events) > 0 {
			from = events[len(events)-1].Position
		}
		all = append(all, events...)
		if len(events) > 0 {
			continue
		}
		if len(all) >= n {
			return all
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%d of %d events can be read: %v", len(all), n, context.Cause(ctx))
		}
	}
}

var errEnough = errors.New("enough")

// follow subscribes until n events have come.
func follow(t testing.TB, s eventstore.Store, from eventstore.Position, n int) []eventstore.Recorded {
	t.Helper()
	var all []eventstore.Recorded
	err := s.Subscribe(within(t), from, func(_ context.Context, ev eventstore.Recorded) error {
		if all = append(all, ev); len(all) == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("subscribe: %d of %d events, then: %v", len(all), n, err)
	}
	return all
}

// keys tells events by stream and version.
func keys(events []eventstore.Recorded) []string {
	out := make([]string, len(events))
	for i, ev := range events {
		out[i] = fmt.Sprintf("%s@%d", ev.Stream, ev.Version)
	}
	return out
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

// inOrder fails if a stream's versions are not 1, 2, 3 ...
func inOrder(t testing.TB, events []eventstore.Recorded) {
	t.Helper()
	at := map[string]int64{}
	for _, ev := range events {
		if at[ev.Stream]++; ev.Version != at[ev.Stream] {
			t.Fatalf("%s comes with version %d where %d is due, in %v", ev.Stream, ev.Version, at[ev.Stream], keys(events))
		}
	}
}
