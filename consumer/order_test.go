package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
)

var errNotYet = errors.New("not yet")

// Every key's events are handled in order and one at a time, with failures on
// the way, whatever the number of workers.
func TestOrderPerKey(t *testing.T) {
	for _, workers := range []int{1, 2, 8} {
		t.Run(strconv.Itoa(workers), func(t *testing.T) {
			w := newWorld(t, 2)
			const keys, per = 10, 60
			var recs []*kgo.Record
			want := map[string][]string{}
			for i := range keys * per {
				key := "k" + strconv.Itoa(i%keys)
				recs = append(recs, event(int32(i%keys%2), key, i))
				want[key] = append(want[key], strconv.Itoa(i))
			}
			w.produce(recs...)

			var mu sync.Mutex
			busy, got, failures := map[string]bool{}, map[string][]string{}, 0
			rng := rand.New(rand.NewPCG(1, uint64(workers)))
			seen := newLog()
			cfg := w.config()
			cfg.Concurrency, cfg.Attempts = workers, 100
			cfg.Handler = func(_ context.Context, ev consumer.Event) error {
				mu.Lock()
				if busy[ev.AggregateID] {
					t.Errorf("two calls at a time for %s", ev.AggregateID)
				}
				busy[ev.AggregateID] = true
				fail := rng.IntN(10) == 0
				mu.Unlock()
				defer func() { mu.Lock(); busy[ev.AggregateID] = false; mu.Unlock() }()
				if fail {
					mu.Lock()
					failures++
					mu.Unlock()
					return errNotYet
				}
				mu.Lock()
				got[ev.AggregateID] = append(got[ev.AggregateID], string(ev.Payload))
				mu.Unlock()
				seen.add(ev)
				return nil
			}
			m := w.start(cfg)
			seen.count(t, keys*per)
			w.awaitCommitted(events, 0, keys*per/2)
			w.awaitCommitted(events, 1, keys*per/2)
			if err := m.stop(); err != nil {
				t.Error(err)
			}
			if failures == 0 {
				t.Error("nothing failed: the test says nothing")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A key that fails holds up itself and nothing else; what is committed stays in
// front of it.
func TestFailingKeyBlocksItselfOnly(t *testing.T) {
	for _, workers := range []int{1, 4} {
		t.Run(strconv.Itoa(workers), func(t *testing.T) {
			w := newWorld(t, 1)
			var recs []*kgo.Record
			for i := range 100 {
				key := "good" + strconv.Itoa(i%7)
				if i == 10 || i == 50 {
					key = "bad"
				}
				recs = append(recs, event(0, key, i))
			}
			w.produce(recs...)
			seen := newLog()
			heal := make(chan struct{})
			cfg := w.config()
			cfg.Concurrency, cfg.Attempts = workers, 1<<20
			cfg.Handler = func(_ context.Context, ev consumer.Event) error {
				if ev.AggregateID == "bad" {
					select {
					case <-heal:
					default:
						return errNotYet
					}
				}
				seen.add(ev)
				return nil
			}
			m := w.start(cfg)
			got := texts(seen.count(t, 98))
			if slices.Contains(got, "10") || slices.Contains(got, "50") {
				t.Error("a failing event was handled")
			}
			w.awaitCommitted(events, 0, 10)
			close(heal)
			got = texts(seen.count(t, 100))
			if slices.Index(got, "10") > slices.Index(got, "50") {
				t.Error("the failing key changed its order")
			}
			w.awaitCommitted(events, 0, 100)
			if err := m.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What is in flight never exceeds the bound, however much there is.
func TestMemoryBound(t *testing.T) {
	w := newWorld(t, 3)
	const n, bound = 600, 40
	for i := range n {
		w.produce(event(int32(i%3), "k"+strconv.Itoa(i%13), i))
	}
	seen := newLog()
	hold := make(chan struct{})
	peak := 0.0
	var mu sync.Mutex
	cfg := w.config()
	cfg.Concurrency, cfg.MaxInFlight = 4, bound
	cfg.Handler = func(_ context.Context, ev consumer.Event) error {
		<-hold
		v := w.metric("outbox_consumer_in_flight_records", nil)
		mu.Lock()
		peak = max(peak, v)
		mu.Unlock()
		seen.add(ev)
		return nil
	}
	w.start(cfg)
	w.awaitMetric("outbox_consumer_in_flight_records", nil, bound)
	close(hold)
	seen.count(t, n)
	if peak > bound {
		t.Errorf("%v in flight, and %d are allowed", peak, bound)
	}
	w.awaitMetric("outbox_consumer_in_flight_records", nil, 0)
	w.awaitMetric("outbox_consumer_in_flight_bytes", nil, 0)
}

// A bound in bytes stops the reader too.
func TestMemoryBoundBytes(t *testing.T) {
	w := newWorld(t, 1)
	big := make([]byte, 100_000)
	for i := range 40 {
		r := event(0, "k", i)
		r.Value = big
		w.produce(r)
	}
	seen := newLog()
	hold := make(chan struct{})
	cfg := w.config()
	cfg.MaxInFlightBytes = 500_000
	cfg.Client = append(cfg.Client, kgo.FetchMaxBytes(300_000))
	cfg.Handler = func(_ context.Context, ev consumer.Event) error {
		<-hold
		seen.add(ev)
		return nil
	}
	w.start(cfg)
	w.awaitMetricAbove("outbox_consumer_in_flight_bytes", nil, 500_000)
	if v := w.metric("outbox_consumer_in_flight_bytes", nil); v > 900_000 {
		t.Errorf("%v bytes in flight: more than the bound and one fetch", v)
	}
	close(hold)
	seen.count(t, 40)
}

// Records without a key have no order, and do not wait for each other.
func TestNoKeyNoOrder(t *testing.T) {
	w := newWorld(t, 1)
	for i := range 3 {
		r := event(0, "", i)
		r.Key = nil
		w.produce(r)
	}
	seen := newLog()
	cfg := w.config()
	cfg.Concurrency = 3
	all := make(chan struct{})
	var in sync.WaitGroup
	in.Add(3)
	go func() { in.Wait(); close(all) }()
	cfg.Handler = func(_ context.Context, ev consumer.Event) error {
		in.Done()
		select {
		case <-all: // all three are running
		case <-time.After(10 * time.Second):
			t.Error("they run one after the other")
		}
		seen.add(ev)
		return nil
	}
	w.start(cfg)
	seen.count(t, 3)
}

func TestEventIsParsed(t *testing.T) {
	w := newWorld(t, 1)
	w.produce(event(0, "o-1", 7))
	seen := newLog()
	cfg := w.config()
	cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
	w.start(cfg)
	ev := seen.count(t, 1)[0]
	got := fmt.Sprint(ev.ID, ev.Type, ev.AggregateType, ev.AggregateID, string(ev.Key), string(ev.Payload), ev.ContentType,
		ev.Headers[0].Key, string(ev.Headers[0].Value), ev.Topic, ev.Partition, ev.Offset, ev.CommitTime.Format(time.RFC3339), ev.Position, ev.Replayed, ev.Attempt)
	want := fmt.Sprint("id-7", "Created", "order", "o-1", "o-1", "7", "application/json",
		"tenant", "blue", events, int32(0), int64(0), "2026-01-01T00:00:07Z", consumer.Position{Source: "shop/relay", Timeline: 1, LSN: 0x1007, Ordinal: 1}, false, 1)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
