package eventstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

// journal hears where a subscription reads from.
type journal chan string

func (j journal) Enabled(context.Context, slog.Level) bool { return true }
func (j journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j journal) WithGroup(string) slog.Handler            { return j }
func (j journal) Handle(_ context.Context, r slog.Record) error {
	select {
	case j <- r.Message:
	default: // nobody listens any more
	}
	return nil
}

const (
	readsKafka    = "subscription reads from Kafka"
	readsDatabase = "subscription reads from the database"
)

func (j journal) await(t testing.TB, message string) {
	t.Helper()
	for ctx := within(t); ; {
		select {
		case m := <-j:
			if m == message {
				return
			}
		case <-ctx.Done():
			t.Fatalf("no word of %q", message)
		}
	}
}

type hybrid struct {
	*eventstore.Hybrid
	d *tables
	b *broker
	j journal

	l, relay *line // the store's way to Kafka, and the relay's
}

func newHybridTest(t testing.TB, change func(*eventstore.HybridConfig), skip func(id string) bool) *hybrid {
	t.Helper()
	h := &hybrid{d: newTables(t), b: newBroker(t), l: new(line), relay: new(line), j: make(journal, 10_000)}
	startRelay(t, h.d, h.b, h.relay, skip)
	cfg := hybridConfig(h.b, h.l)
	cfg.Logger = slog.New(h.j)
	if change != nil {
		change(&cfg)
	}
	h.Hybrid = newHybrid(t, h.d.store(t, eventstore.DatabaseConfig{Tick: 50 * time.Millisecond}), cfg)
	return h
}

// once takes n events and fails on one that comes twice or out of its
// stream's order.
func once(t testing.TB, events <-chan eventstore.Recorded, at map[string]int64, n int) {
	t.Helper()
	for range n {
		ev := next(t, events)
		if at[ev.Stream]++; ev.Version != at[ev.Stream] {
			t.Fatalf("%s comes with version %d where %d is due", ev.Stream, ev.Version, at[ev.Stream])
		}
	}
}

// Kafka goes and comes under load. Appending never fails, and the subscriber
// gets each event once and in order, wherever it comes from.
func TestHybridSwitches(t *testing.T) {
	h := newHybridTest(t, nil, nil)
	events, at := follow(t, h, eventstore.Start), map[string]int64{}
	h.j.await(t, readsKafka)

	stop, total := make(chan struct{}), make(chan int, 4)
	var wg sync.WaitGroup
	for who := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					total <- n
					return
				default:
				}
				if _, err := h.Append(within(t), fmt.Sprintf("s-%d", (n+who)%7), eventstore.Any, one("x")); err != nil {
					t.Errorf("append: %v", err)
					total <- n
					return
				}
			}
		})
	}
	for range 3 {
		once(t, events, at, 20)
		h.l.cut(t)
		h.relay.cut(t)
		h.j.await(t, readsDatabase)
		once(t, events, at, 20)
		h.l.mend(t)
		h.relay.mend(t)
		h.j.await(t, readsKafka)
	}
	once(t, events, at, 20)
	close(stop)
	wg.Wait()
	left := -(20 + 3*40)
	for range 4 {
		left += <-total
	}
	once(t, events, at, left)
	select {
	case ev := <-events:
		t.Errorf("one too many: %s@%d", ev.Stream, ev.Version)
	case <-time.After(300 * time.Millisecond): // there is no signal for nothing
	}
}

// A subscription that begins without Kafka begins with the database.
func TestHybridStartsWithoutKafka(t *testing.T) {
	h := newHybridTest(t, nil, nil)
	h.l.cut(t)
	mustAppend(t, h, "s", "a", "b")
	events, at := follow(t, h, eventstore.Start), map[string]int64{}
	once(t, events, at, 2)
	mustAppend(t, h, "s", "c")
	once(t, events, at, 1)
	h.l.mend(t)
	h.j.await(t, readsKafka)
	mustAppend(t, h, "s", "d")
	once(t, events, at, 1)
}

// An event can be in Kafka while the database still hides it behind an older
// transaction. A subscription that went over to Kafka now would begin behind
// the event there, and never get it from here.
func TestHybridMeetsBehindTheHorizon(t *testing.T) {
	h := newHybridTest(t, func(cfg *eventstore.HybridConfig) { cfg.Settle, cfg.Patience = time.Hour, time.Hour }, nil)
	late := h.d.begin(t)
	if _, err := h.AppendTx(within(t), late, "s-1", eventstore.NoStream, one("late")); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, h, "s-2", "early")
	reader := h.b.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if fs := reader.PollRecords(within(t), 1); fs.NumRecords() != 1 { // it is published
		t.Fatal(fs.Err())
	}
	events, at := follow(t, h, eventstore.Start), map[string]int64{}
	h.j.await(t, "subscription meets Kafka")
	for calm := time.After(200 * time.Millisecond); calm != nil; { // there is no signal for nothing
		select {
		case m := <-h.j:
			if m == readsKafka {
				t.Error("it went over to Kafka while the database hides an event")
			}
		case <-calm:
			calm = nil
		}
	}
	if err := late.Commit(within(t)); err != nil {
		t.Fatal(err)
	}
	once(t, events, at, 2)
	h.j.await(t, readsKafka)
}

// A relay that comes late publishes what the database has delivered long ago.
func TestHybridLateRelay(t *testing.T) {
	h := newHybridTest(t, func(cfg *eventstore.HybridConfig) { cfg.Settle, cfg.Patience = time.Hour, time.Hour }, nil)
	h.relay.cut(t)
	mustAppend(t, h, "s", "a", "b")
	events, at := follow(t, h, eventstore.Start), map[string]int64{}
	once(t, events, at, 2)
	h.j.await(t, readsKafka)
	mustAppend(t, h, "s", "c")
	h.relay.mend(t)
	once(t, events, at, 1)
	if len(events) > 0 {
		t.Errorf("%d events too many", len(events))
	}
}

// An event that became a dead letter never comes through the topic. The one
// behind it in its stream must not overtake it, and one that nothing follows
// must come all the same.
func TestHybridDeadLetters(t *testing.T) {
	for name, tc := range map[string]struct{ events []eventstore.Event }{
		"one follows":   {[]eventstore.Event{{Type: "a"}, {Type: "b", ID: "0198c0de-0000-7000-8000-00000000dead"}, {Type: "c"}}},
		"none follows":  {[]eventstore.Event{{Type: "a"}, {Type: "b", ID: "0198c0de-0000-7000-8000-00000000dead"}}},
		"nothing comes": {[]eventstore.Event{{Type: "b", ID: "0198c0de-0000-7000-8000-00000000dead"}}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHybridTest(t, nil, func(id string) bool { return id == "0198c0de-0000-7000-8000-00000000dead" })
			events, at := follow(t, h, eventstore.Start), map[string]int64{}
			h.j.await(t, readsKafka)
			if _, err := h.Append(within(t), "s", eventstore.NoStream, tc.events...); err != nil {
				t.Fatal(err)
			}
			once(t, events, at, len(tc.events))
			h.j.await(t, readsKafka) // and goes back
			mustAppend(t, h, "s", "d")
			once(t, events, at, 1)
		})
	}
}

// What is remembered between settlements is bounded. Nothing can be settled
// while an older transaction is open; then the subscription waits for it.
func TestHybridForgets(t *testing.T) {
	h := newHybridTest(t, func(cfg *eventstore.HybridConfig) { cfg.MaxSeen, cfg.Settle = 5, time.Hour }, nil)
	events, at := follow(t, h, eventstore.Start), map[string]int64{}
	h.j.await(t, readsKafka)
	for i := range 60 {
		mustAppend(t, h, fmt.Sprintf("s-%d", i%7), "x")
	}
	once(t, events, at, 60)

	other := h.d.begin(t)
	if _, err := other.Exec(t.Context(), "CREATE TABLE other (id int)"); err != nil { // takes a transaction id
		t.Fatal(err)
	}
	for i := range 12 {
		mustAppend(t, h, fmt.Sprintf("t-%d", i), "x")
	}
	h.j.await(t, readsDatabase)
	if err := other.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	once(t, events, at, 12)
}

// The two things that a Hybrid does not promise: a subscription has the order
// of the topics, and what was delivered since the last settlement comes again.
func TestHybridDenies(t *testing.T) {
	h := newHybridTest(t, func(cfg *eventstore.HybridConfig) { cfg.Settle, cfg.Patience = time.Hour, time.Hour }, nil)
	if caps := h.Capabilities(); caps.TotalSubscribe || caps.ExactResume {
		t.Fatalf("it claims %+v", caps)
	}
	events := follow(t, h, eventstore.Start)
	h.j.await(t, readsKafka)
	// The relay of this test publishes by the names of the streams, so two
	// streams of one partition change places.
	first, second := "z-0", "a-0"
	for i := 1; partitionOf(first) != partitionOf(second); i++ {
		first = fmt.Sprintf("z-%d", i)
	}
	ctx := within(t)
	tx := h.d.begin(t)
	for _, stream := range []string{first, second} {
		if _, err := h.AppendTx(ctx, tx, stream, eventstore.NoStream, one(stream[:1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if got := types(page(t, h, eventstore.Start)); !slices.Equal(got, []string{"z", "a"}) {
		t.Fatalf("the log has %v", got)
	}
	one, two := next(t, events), next(t, events)
	if diff := cmp.Diff([]string{"a", "z"}, []string{one.Type, two.Type}); diff != "" {
		t.Errorf("not the order of the topic (-want +got):\n%s", diff)
	}
	again := follow(t, h, two.Position)
	if got := []string{next(t, again).Type, next(t, again).Type}; !slices.Equal(got, []string{"z", "a"}) {
		t.Errorf("behind the last event comes %v", got)
	}
}

func TestHybridNeedsTopics(t *testing.T) {
	if _, err := eventstore.NewHybrid(nil, eventstore.HybridConfig{}); err == nil {
		t.Error("a hybrid store without topics was made")
	}
}
