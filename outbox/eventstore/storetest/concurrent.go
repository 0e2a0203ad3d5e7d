package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

const appenders = 8

// together runs f for eight appenders, each with a handle of its own.
func together(t *testing.T, r Rig, f func(ctx context.Context, s eventstore.Store, who int) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	stores := make([]eventstore.Store, appenders)
	for i := range stores {
		stores[i] = r.Open(t)
	}
	errs := make([]error, appenders)
	var wg sync.WaitGroup
	for i, s := range stores {
		wg.Go(func() { errs[i] = f(ctx, s, i) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// said is what the appenders were told: which event has which version.
type said struct {
	mu sync.Mutex
	at map[int64]string
}

func (a *said) note(version int64, id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if other, taken := a.at[version]; taken {
		return fmt.Errorf("version %d was given to %s and to %s", version, other, id)
	}
	a.at[version] = id
	return nil
}

// check compares what the appenders were told with what the stream holds.
func (a *said) check(t *testing.T, s eventstore.Store, stream string, n int) {
	t.Helper()
	events := load(t, s, stream, 0)
	inOrder(t, events)
	if len(events) != n || len(a.at) != n {
		t.Fatalf("%d events in the stream and %d versions given out, want %d", len(events), len(a.at), n)
	}
	for _, ev := range events {
		if a.at[ev.Version] != ev.ID {
			t.Errorf("version %d is %s, and %s was told so", ev.Version, ev.ID, a.at[ev.Version])
		}
	}
	all := readAll(t, s, eventstore.Start, n, 50)
	inOrder(t, all)
	if len(all) != n {
		t.Errorf("%d events in all streams, want %d", len(all), n)
	}
}

func testConcurrentAny(t *testing.T, r Rig) {
	const each = 10
	told := said{at: map[int64]string{}}
	together(t, r, func(ctx context.Context, s eventstore.Store, who int) error {
		for range each {
			events := named("x", "y")
			version, err := s.Append(ctx, "hot", eventstore.Any, events...)
			if err != nil {
				return fmt.Errorf("appender %d: %w", who, err)
			}
			if err := errors.Join(told.note(version-1, events[0].ID), told.note(version, events[1].ID)); err != nil {
				return err
			}
		}
		return nil
	})
	told.check(t, r.Open(t), "hot", 2*each*appenders)
}

// Each appender reads the version and appends behind it, and begins again
// when somebody else was faster, as a service does.
func testConcurrentExact(t *testing.T, r Rig) {
	const each = 5
	told := said{at: map[int64]string{}}
	together(t, r, func(ctx context.Context, s eventstore.Store, who int) error {
		var at int64
		for done := 0; done < each; {
			events := named("x")
			version, err := s.Append(ctx, "hot", eventstore.Exact(at), events...)
			var conflict *eventstore.VersionConflict
			switch {
			case err == nil:
				if err := told.note(version, events[0].ID); err != nil {
					return err
				}
				at, done = version, done+1
			case errors.As(err, &conflict):
				if conflict.Actual <= at {
					return fmt.Errorf("appender %d expected %d and collides with %d", who, at, conflict.Actual)
				}
				at = conflict.Actual
			default:
				return fmt.Errorf("appender %d: %w", who, err)
			}
		}
		return nil
	})
	told.check(t, r.Open(t), "hot", each*appenders)
}

// Streams of their own still share partitions and the log.
func testConcurrentStreams(t *testing.T, r Rig) {
	const each = 5
	together(t, r, func(ctx context.Context, s eventstore.Store, who int) error {
		for i := range each {
			if version, err := s.Append(ctx, fmt.Sprintf("s-%d", who), eventstore.Exact(int64(i)), named("x")...); err != nil || version != int64(i)+1 {
				return fmt.Errorf("appender %d: version %d, %w", who, version, err)
			}
		}
		return nil
	})
	s := r.Open(t)
	inOrder(t, readAll(t, s, eventstore.Start, each*appenders, 9))
	inOrder(t, follow(t, s, eventstore.Start, each*appenders))
}
