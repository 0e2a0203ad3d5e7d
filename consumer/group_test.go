package consumer_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
)

// Two members share the partitions; one comes late, one leaves in the middle.
// Nothing is lost, no key goes backwards, and what is handled twice is at most
// what was under way.
func TestRebalance(t *testing.T) {
	for _, workers := range []int{1, 4} {
		t.Run(strconv.Itoa(workers), func(t *testing.T) {
			w := newWorld(t, 6)
			const n, keys = 3000, 30
			seen := newLog()
			cfg := w.config()
			// No commit but those of revocations and stops, and work under way
			// when they come.
			cfg.Concurrency, cfg.MaxInFlight, cfg.Registerer, cfg.CommitInterval = workers, 100, nil, time.Hour
			cfg.Handler = func(_ context.Context, ev consumer.Event) error {
				time.Sleep(50 * time.Microsecond)
				seen.add(ev)
				return nil
			}
			feed := func(from, to int) {
				var recs []*kgo.Record
				for i := from; i < to; i++ {
					recs = append(recs, event(int32(i%keys%6), "k"+strconv.Itoa(i%keys), i))
				}
				w.produce(recs...)
			}
			feed(0, n/3)
			first := w.start(cfg)
			seen.count(t, n/6)
			second := w.start(cfg)
			feed(n/3, 2*n/3)
			seen.count(t, n/2)
			if err := first.stop(); err != nil {
				t.Error(err)
			}
			third := w.start(cfg)
			feed(2*n/3, n)
			got := seen.await(t, "all events", func(seen []consumer.Event) bool {
				distinct := map[string]bool{}
				for _, ev := range seen {
					distinct[ev.ID] = true
				}
				return len(distinct) == n
			})
			for _, m := range []*member{second, third} {
				if err := m.stop(); err != nil {
					t.Error(err)
				}
			}
			for p := range int32(6) {
				if at, _ := w.committed(events, p); at != n/6 {
					t.Errorf("partition %d: committed %d", p, at)
				}
			}
			// Orderly rebalances commit what is done, so nothing comes twice.
			last := map[string]int64{}
			for _, ev := range got {
				if prev, ok := last[ev.AggregateID]; ok && ev.Offset <= prev {
					t.Fatalf("%s: offset %d after %d", ev.AggregateID, ev.Offset, prev)
				}
				last[ev.AggregateID] = ev.Offset
			}
			if len(got) != n {
				t.Errorf("%d events handled, %d times", n, len(got))
			}
		})
	}
}

// A partition is given away only after the calls for it have ended.
func TestRevokeWaitsForCalls(t *testing.T) {
	w := newWorld(t, 2)
	w.produce(event(0, "a", 0), event(1, "b", 1))
	entered, release := make(chan string, 10), make(chan struct{})
	var mu sync.Mutex
	running, overlap := map[string]int{}, false
	cfg := w.config()
	cfg.Concurrency, cfg.Registerer = 2, nil
	cfg.Handler = func(ctx context.Context, ev consumer.Event) error {
		mu.Lock()
		running[ev.ID]++
		overlap = overlap || running[ev.ID] > 1
		mu.Unlock()
		entered <- ev.ID
		<-release
		if ctx.Err() != nil {
			t.Errorf("the call for %s was not given its time", ev.ID)
		}
		mu.Lock()
		running[ev.ID]--
		mu.Unlock()
		return nil
	}
	w.start(cfg)
	got := []string{<-entered, <-entered}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"id-0", "id-1"}, got); diff != "" {
		t.Fatal(diff)
	}
	w.start(cfg) // wants one of the partitions
	select {
	case id := <-entered:
		t.Errorf("%s is handled by both", id)
	case <-time.After(300 * time.Millisecond): // many heartbeats: the rebalance had its chance
	}
	close(release)
	w.awaitCommitted(events, 0, 1)
	w.awaitCommitted(events, 1, 1)
	select {
	case id := <-entered:
		t.Errorf("%s is handled again", id)
	default:
	}
	if overlap {
		t.Error("two calls for one event at a time")
	}
}

// A stop waits for running calls, and ends their context after DrainTimeout.
// What they did not finish is not committed.
func TestStopBudget(t *testing.T) {
	for _, workers := range []int{1, 3} {
		w := newWorld(t, 1)
		w.produce(event(0, "a", 0), event(0, "b", 1), event(0, "c", 2))
		entered := make(chan struct{}, 10)
		cfg := w.config()
		cfg.DrainTimeout, cfg.Concurrency = 50*time.Millisecond, workers
		var ended atomic.Bool
		cfg.Handler = func(ctx context.Context, ev consumer.Event) error {
			if ev.AggregateID == "a" {
				return nil
			}
			entered <- struct{}{}
			<-ctx.Done()
			ended.Store(true)
			return ctx.Err()
		}
		m := w.start(cfg)
		<-entered
		w.awaitCommitted(events, 0, 1)
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if !ended.Load() {
			t.Error("the call's context has not ended")
		}
		if at, _ := w.committed(events, 0); at != 1 {
			t.Errorf("committed %d", at)
		}
	}
}

// A handler that ignores its context does not keep Run.
func TestStopWithStuckHandler(t *testing.T) {
	w := newWorld(t, 1)
	w.produce(event(0, "a", 0))
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	cfg := w.config()
	cfg.DrainTimeout = 20 * time.Millisecond
	cfg.Handler = func(context.Context, consumer.Event) error {
		close(entered)
		<-release
		return nil
	}
	m := w.start(cfg)
	<-entered
	if err := m.stop(); !errors.Is(err, consumer.ErrStuck) {
		t.Errorf("Run returned %v", err)
	}
	if at, _ := w.committed(events, 0); at > 0 {
		t.Errorf("committed %d", at)
	}
}

func TestPauseResume(t *testing.T) {
	for _, workers := range []int{1, 3} {
		w := newWorld(t, 1)
		seen := newLog()
		cfg := w.config()
		cfg.Concurrency = workers
		cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
		m := w.start(cfg)
		w.produce(event(0, "k", 1))
		seen.count(t, 1)
		m.Pause()
		w.produce(event(0, "k", 2), event(0, "l", 3))
		w.awaitMetric("outbox_consumer_in_flight_records", nil, 2) // read, and not begun
		if len(seen.all()) != 1 {
			t.Error("an event was handled while paused")
		}
		m.Resume()
		seen.count(t, 3)
		w.awaitCommitted(events, 0, 3)
	}
}

// Drain returns when all is done and committed, and nothing comes after it.
func TestDrain(t *testing.T) {
	for _, workers := range []int{1, 3} {
		w := newWorld(t, 1)
		seen := newLog()
		cfg := w.config()
		cfg.Concurrency, cfg.CommitInterval, cfg.MaxInFlight = workers, time.Hour, 10
		cfg.Handler = func(_ context.Context, ev consumer.Event) error {
			if ev.Attempt == 1 {
				return errNotYet
			}
			seen.add(ev)
			return nil
		}
		m := w.start(cfg)
		const n = 500
		var recs []*kgo.Record
		for i := range n {
			recs = append(recs, event(0, "k"+strconv.Itoa(i%5), i))
		}
		w.produce(recs...)
		seen.count(t, 20)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := m.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		done := len(seen.all())
		if at, _ := w.committed(events, 0); at != int64(done) {
			t.Errorf("committed %d of %d", at, done)
		}
		if done == n {
			t.Error("the drain came too late to say anything")
		}
		if v := w.metric("outbox_consumer_in_flight_records", nil); v != 0 {
			t.Errorf("%v in flight", v)
		}
		m.Resume()
		seen.count(t, n)
		if err := m.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		w.awaitCommitted(events, 0, n)
		cancel()
	}
}

// A static member that comes back in time gets its partitions without a
// rebalance, and goes on where it was.
func TestStaticMember(t *testing.T) {
	w := newWorld(t, 2)
	seen := newLog()
	cfg := w.config()
	cfg.InstanceID, cfg.Registerer = "one", nil
	cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
	m := w.start(cfg)
	w.produce(event(0, "k", 1))
	seen.count(t, 1)
	if err := m.stop(); err != nil {
		t.Error(err)
	}
	w.produce(event(0, "k", 2))
	w.start(cfg)
	if diff := cmp.Diff([]string{"1", "2"}, texts(seen.count(t, 2))); diff != "" {
		t.Error(diff)
	}
}

// What Kafka rolled back is not delivered, unless asked for; its marker leaves
// no lag.
func TestReadCommitted(t *testing.T) {
	for _, dirty := range []bool{false, true} {
		w := newWorld(t, 1)
		tx, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.TransactionalID("tx"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		for i, commit := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
			if err := tx.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			if err := tx.ProduceSync(t.Context(), event(0, "k", i)).FirstErr(); err != nil {
				t.Fatal(err)
			}
			if err := tx.EndTransaction(t.Context(), commit); err != nil {
				t.Fatal(err)
			}
		}
		tx.Close()
		seen := newLog()
		cfg := w.config()
		cfg.ReadUncommitted = dirty
		cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
		w.start(cfg)
		want := []string{"1"}
		if dirty {
			want = []string{"0", "1"}
		}
		if diff := cmp.Diff(want, texts(seen.count(t, len(want)))); diff != "" {
			t.Error(diff)
		}
		w.awaitCommitted(events, 0, 4)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := consumer.Config{Group: "g", Topics: []string{"t"}, Client: []kgo.Opt{kgo.SeedBrokers("localhost:9")}, Handler: func(context.Context, consumer.Event) error { return nil }}
	if _, err := consumer.New(good); err != nil {
		t.Fatal(err)
	}
	transform := func(context.Context, consumer.Event) ([]*kgo.Record, error) { return nil, nil }
	for name, spoil := range map[string]func(*consumer.Config){
		"no group":           func(c *consumer.Config) { c.Group = "" },
		"no topics":          func(c *consumer.Config) { c.Topics = nil },
		"no client":          func(c *consumer.Config) { c.Client = nil },
		"no handler":         func(c *consumer.Config) { c.Handler = nil },
		"both":               func(c *consumer.Config) { c.Transform = transform },
		"negative":           func(c *consumer.Config) { c.Concurrency = -1 },
		"long drain":         func(c *consumer.Config) { c.DrainTimeout = time.Minute },
		"retry is read":      func(c *consumer.Config) { c.RetryTopic = "t" },
		"letters are read":   func(c *consumer.Config) { c.DeadLetterTopic = "t" },
		"transform dedupe":   func(c *consumer.Config) { c.Handler, c.Transform, c.Dedupe = nil, transform, consumer.HighWater },
		"transform retry":    func(c *consumer.Config) { c.Handler, c.Transform, c.RetryTopic = nil, transform, "r" },
		"transactional id":   func(c *consumer.Config) { c.TransactionalID = "x" },
		"client contradicts": func(c *consumer.Config) { c.Client = append(c.Client, kgo.MaxBufferedRecords(-1)) },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := consumer.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	c, err := consumer.New(good)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Run(ctx); !errors.Is(err, consumer.ErrTwice) {
		t.Errorf("the second Run returned %v", err)
	}
}
