package consumer_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
)

// While paused, Drain waits for what runs and for nothing else, also if the pause
// comes after it.
func TestDrainWhilePaused(t *testing.T) {
	for _, workers := range []int{1, 3} {
		for _, first := range []string{"pause", "drain"} {
			w := newWorld(t, 1)
			seen := newLog()
			began, end := make(chan struct{}, 1), make(chan struct{})
			cfg := w.config()
			cfg.Concurrency, cfg.CommitInterval = workers, time.Hour
			cfg.Handler = func(_ context.Context, ev consumer.Event) error {
				if string(ev.Payload) == "1" {
					began <- struct{}{}
					<-end
				}
				seen.add(ev)
				return nil
			}
			m := w.start(cfg)
			w.produce(event(0, "k", 1), event(0, "k", 2), event(0, "k", 3))
			<-began
			w.awaitMetric("outbox_consumer_in_flight_records", nil, 3)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if first == "pause" {
				m.Pause()
			}
			drained := make(chan error, 1)
			go func() { drained <- m.Drain(ctx) }()
			if first == "drain" {
				m.Pause()
			}
			select {
			case err := <-drained:
				t.Fatalf("%s first, %d workers: Drain returned while a call ran: %v", first, workers, err)
			case <-time.After(50 * time.Millisecond):
			}
			close(end)
			if err := <-drained; err != nil {
				t.Errorf("%s first, %d workers: %v", first, workers, err)
			}
			done := len(seen.all())
			if at, _ := w.committed(events, 0); at != int64(done) || done == 3 {
				t.Errorf("%s first, %d workers: committed %d of %d", first, workers, at, done)
			}
			m.Resume()
			if diff := cmp.Diff([]string{"1", "2", "3"}, texts(seen.count(t, 3))); diff != "" {
				t.Error(diff)
			}
			cancel()
		}
	}
}

// A DrainTimeout above the client's rebalance time-out is cut when partitions go:
// the group would throw the member out before it ends.
func TestRevokeWithinRebalance(t *testing.T) {
	w := newWorld(t, 2)
	began, ended, release := make(chan struct{}, 8), make(chan struct{}, 8), make(chan struct{})
	cfg := w.config()
	cfg.DrainTimeout, cfg.Concurrency = 19*time.Second, 2
	cfg.Client = append(cfg.Client, kgo.RebalanceTimeout(2*time.Second))
	cfg.Handler = func(ctx context.Context, _ consumer.Event) error {
		began <- struct{}{}
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			ended <- struct{}{}
			return ctx.Err()
		}
	}
	w.start(cfg)
	w.produce(event(0, "k", 2), event(1, "l", 3))
	<-began
	<-began
	other := cfg
	other.Registerer = nil
	taken := newLog()
	other.Handler = func(_ context.Context, ev consumer.Event) error { taken.add(ev); return nil }
	w.start(other)
	select {
	case <-ended:
	case <-time.After(10 * time.Second): // 1.5 s, and much for a slow machine
		t.Error("the call was not ended in time")
	}
	close(release)
	taken.count(t, 1)
}
