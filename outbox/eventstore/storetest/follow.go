package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

// spread appends three events to each of ten streams, one stream after the
// other and again from the first. It returns the order in which it did.
func spread(t testing.TB, s eventstore.Store) []string {
	t.Helper()
	var order []string
	for version := range 3 {
		for stream := range 10 {
			name := fmt.Sprintf("s-%d", stream)
			mustAppend(t, s, name, named("a")...)
			order = append(order, fmt.Sprintf("%s@%d", name, version+1))
		}
	}
	return order
}

func testReadAll(t *testing.T, r Rig) {
	s := r.Open(t)
	if got := readAll(t, s, eventstore.Start, 0, 10); len(got) != 0 {
		t.Fatalf("an empty log holds %v", keys(got))
	}
	want := sorted(spread(t, s))
	all := readAll(t, r.Open(t), eventstore.Start, len(want), 7)
	if diff := cmp.Diff(want, sorted(keys(all))); diff != "" {
		t.Fatalf("each event once (-want +got):\n%s", diff)
	}
	inOrder(t, all)
	for _, i := range []int{0, 6, 15, 28, 29} {
		rest := readAll(t, s, all[i].Position, len(all)-i-1, 4)
		if diff := cmp.Diff(keys(all[i+1:]), keys(rest), cmp.Transformer("nil", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
			t.Errorf("behind event %d (-want +got):\n%s", i, diff)
		}
	}
	if _, err := s.ReadAll(within(t), eventstore.Start, 0); err == nil {
		t.Error("a page of no events was read")
	}
}

// Streams take turns here, so a store without one order shows it: it reads
// its parts one by one.
func testTotalOrder(t *testing.T, r Rig) {
	s := r.Open(t)
	appended := spread(t, s)
	got := keys(readAll(t, r.Open(t), eventstore.Start, len(appended), 7))
	same := slices.Equal(got, appended)
	if promised := s.Capabilities().TotalOrder; same != promised {
		t.Errorf("one order is promised: %v; it was kept: %v\nappended %v\nread     %v", promised, same, appended, got)
	}
	if s.Capabilities().TotalSubscribe && !slices.Equal(keys(follow(t, s, eventstore.Start, len(appended))), appended) {
		t.Error("a subscription has another order")
	}
}

func testPositions(t *testing.T, r Rig) {
	s := r.Open(t)
	mustAppend(t, s, "s", named("a")...)
	for _, pos := range []eventstore.Position{"x", "d1:", "d1:1", "d1:-1.0", "d1:01.1", "d1:1.1 ", "k1:", "k1:a", "k1:1", "k1:-1.0", "d9:1.1"} {
		var bad *eventstore.PositionError
		if _, err := s.ReadAll(within(t), pos, 1); !errors.As(err, &bad) {
			t.Errorf("read all from %q: %v", pos, err)
		}
		err := s.Subscribe(within(t), pos, func(context.Context, eventstore.Recorded) error { return errEnough })
		if !errors.As(err, &bad) {
			t.Errorf("subscribe from %q: %v", pos, err)
		}
	}
}

// What is there comes first, and then what is appended while the subscription
// runs: the handler itself appends, so that nothing has to be timed.
func testSubscribe(t *testing.T, r Rig) {
	s, writer := r.Open(t), r.Open(t)
	before := spread(t, writer)
	live := 20
	var got []eventstore.Recorded
	err := s.Subscribe(within(t), eventstore.Start, func(ctx context.Context, ev eventstore.Recorded) error {
		got = append(got, ev)
		if n := len(got) - len(before); n >= 0 && n < live {
			mustAppend(t, writer, fmt.Sprintf("live-%d", n%3), named("x")...)
		}
		if len(got) == len(before)+live {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("%d events, then %v", len(got), err)
	}
	inOrder(t, got)
	if diff := cmp.Diff(sorted(keys(readAll(t, writer, eventstore.Start, len(got), 100))), sorted(keys(got))); diff != "" {
		t.Errorf("each event once (-want +got):\n%s", diff)
	}
}

// A subscription that starts at the position of an event misses nothing
// behind it, and repeats nothing if the store says so.
func testResume(t *testing.T, r Rig) {
	s := r.Open(t)
	n := len(spread(t, s))
	all := follow(t, s, eventstore.Start, n)
	exact := s.Capabilities().ExactResume
	for _, i := range []int{0, 9, 28} {
		due := map[string]bool{}
		for _, k := range keys(all[i+1:]) {
			due[k] = true
		}
		err := r.Open(t).Subscribe(within(t), all[i].Position, func(_ context.Context, ev eventstore.Recorded) error {
			k := keys([]eventstore.Recorded{ev})[0]
			if exact && !due[k] {
				return fmt.Errorf("%s comes again", k)
			}
			if delete(due, k); len(due) == 0 {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) {
			t.Errorf("behind event %d: %v; not seen: %v", i, err, due)
		}
	}
}

func testSubscribeEnds(t *testing.T, r Rig) {
	s := r.Open(t)
	mustAppend(t, s, "s", named("a", "b")...)
	boom := errors.New("boom")
	calls := 0
	err := s.Subscribe(within(t), eventstore.Start, func(context.Context, eventstore.Recorded) error { calls++; return boom })
	if !errors.Is(err, boom) || calls != 1 {
		t.Errorf("the handler's error: %v after %d calls", err, calls)
	}
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(within(t))
	defer cancel(nil)
	calls = 0
	err = s.Subscribe(ctx, eventstore.Start, func(context.Context, eventstore.Recorded) error {
		if calls++; calls == 2 {
			cancel(stop)
		}
		return nil
	})
	if !errors.Is(err, stop) || calls != 2 {
		t.Errorf("the end of the context: %v after %d calls", err, calls)
	}
}
