package e2e

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/outbox/eventstore"
	"github.com/holdwall/outbox-relay/outbox/eventstore/storetest"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// way is one store's way to Kafka, which can be cut without disturbing others.
type way struct {
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func (w *way) dial(ctx context.Context, network, host string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		c.Close()
		return nil, errors.New("the way is cut")
	}
	w.conns = append(w.conns, c)
	return c, nil
}

func (w *way) cut(testing.TB) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

func (w *way) mend(testing.TB) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}

func (w *way) opts(brokers []string) []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers(brokers...), kgo.Dialer(w.dial), kgo.RetryTimeout(2 * time.Second)}
}

// The Kafka store keeps its promises on Apache Kafka, fencing included.
func TestEventStoreKafka(t *testing.T) {
	rig.Real(t)
	kafka := harness.Kafka(t)
	storetest.Run(t, func(t testing.TB) storetest.Rig {
		w := &way{}
		forever := map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
		topic := kafka.NewTopics(t).Create(t, "log", 3, forever)
		return storetest.Rig{
			Open: func(t testing.TB) eventstore.Store {
				s, err := eventstore.OpenKafka(t.Context(), eventstore.KafkaConfig{
					Topic: topic, Partitions: 3, Opts: w.opts(kafka.Brokers()), Timeout: 5 * time.Second, DuplicateWindow: 100, Attempts: 500,
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.Close)
				return s
			},
			KafkaDown: w.cut, KafkaUp: w.mend,
		}
	})
}

// eventLog is a rig with a relay that streams, and a log beside its outbox.
func eventLog(t testing.TB) (*rig.Rig, *pgxpool.Pool, *eventstore.Database) {
	t.Helper()
	r := rig.New(t, rig.Config{})
	r.Init(t)
	statements, err := eventstore.Schema(eventstore.DefaultTable)
	if err != nil {
		t.Fatal(err)
	}
	r.Database.Exec(t, statements...)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	pool, err := pgxpool.New(t.Context(), r.Database.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db, err := eventstore.NewDatabase(pool, eventstore.DatabaseConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return r, pool, db
}

// words tells a test what a store logs.
type words chan string

func (w words) Enabled(context.Context, slog.Level) bool        { return true }
func (w words) WithAttrs([]slog.Attr) slog.Handler              { return w }
func (w words) WithGroup(string) slog.Handler                   { return w }
func (w words) Handle(_ context.Context, rec slog.Record) error { w <- rec.Message; return nil }

func (w words) await(ctx context.Context, t testing.TB, message string) {
	t.Helper()
	for {
		select {
		case m := <-w:
			if m == message {
				return
			}
		case <-ctx.Done():
			t.Fatalf("no word of %q", message)
		}
	}
}

// What the relay publishes is, to the last header, the event that the log
// holds, and a subscription gets it from there; without Kafka it gets it from
// the log, and nothing twice.
func TestEventStoreHybridReadsTheRelay(t *testing.T) {
	ctx := within(t, 40*time.Second)
	r, _, db := eventLog(t)
	w, log := &way{}, make(words, 1000)
	h, err := eventstore.NewHybrid(db, eventstore.HybridConfig{
		Topics: []string{r.Events}, Opts: w.opts(r.Kafka.Brokers()), Logger: slog.New(log),
		Settle: time.Second, Patience: 2 * time.Second, Retry: 500 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(ctx)
	events, done := make(chan eventstore.Recorded, 1000), make(chan error, 1)
	go func() {
		done <- h.Subscribe(ctx, eventstore.Start, func(_ context.Context, ev eventstore.Recorded) error { events <- ev; return nil })
	}()
	defer func() {
		cancel(enough)
		if err := <-done; !errors.Is(err, enough) {
			t.Errorf("the subscription ended with %v", err)
		}
	}()
	version := int64(0)
	exchange := func() {
		t.Helper()
		var want, got []eventstore.Recorded
		for _, ev := range []eventstore.Event{
			{
				Type: "Plačeno", Payload: []byte("\x00\\'\xff"), ContentType: "application/avro",
				Headers:     []outbox.Header{{Key: "zz", Value: []byte("ü\n\"")}, {Key: "a", Value: []byte("b")}},
				TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", TraceState: "x=1",
			},
			{Type: "Empty"},
			{Type: "Spaced", Payload: []byte(`{"b": 1,   "a":2}`)},
		} {
			if _, err := h.Append(ctx, "order-1", eventstore.Exact(version), ev); err != nil {
				t.Fatal(err)
			}
			version++
		}
		for ev, err := range h.Load(ctx, "order-1", version-3) {
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, ev)
		}
		for range want {
			select {
			case ev := <-events:
				got = append(got, ev)
			case <-ctx.Done():
				t.Fatalf("%d of %d events came", len(got), len(want))
			}
		}
		headers := cmpopts.SortSlices(func(a, b outbox.Header) bool { return a.Key < b.Key }) // the outbox table keeps jsonb
		if diff := cmp.Diff(want, got, headers, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(eventstore.Recorded{}, "Position")); diff != "" {
			t.Errorf("(-log +subscription):\n%s", diff)
		}
	}
	log.await(ctx, t, "subscription reads from Kafka")
	exchange()
	w.cut(t)
	exchange() // patience is over before it comes
	log.await(ctx, t, "subscription reads from the database")
	w.mend(t)
	log.await(ctx, t, "subscription reads from Kafka")
	exchange()
}

// The hybrid store passes the suite with the real relay behind it.
func TestEventStoreHybrid(t *testing.T) {
	r, pool, db := eventLog(t)
	storetest.Run(t, func(t testing.TB) storetest.Rig {
		// The topics keep the events of the test before, which this one must
		// not see.
		r.Database.Exec(t, "TRUNCATE outbox.event_log, outbox.events")
		w := &way{}
		return storetest.Rig{
			Open: func(t testing.TB) eventstore.Store {
				h, err := eventstore.NewHybrid(db, eventstore.HybridConfig{
					Topics: []string{r.Events}, Opts: w.opts(r.Kafka.Brokers()),
					Settle: 100 * time.Millisecond, Patience: 2 * time.Second, Retry: 100 * time.Millisecond,
				})
				if err != nil {
					t.Fatal(err)
				}
				return h
			},
			Begin: func(t testing.TB) pgx.Tx {
				tx, err := r.Conn(t).Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return tx
			},
			Rows: func(t testing.TB, stream string) int {
				var n int
				if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM outbox.events WHERE aggregateid = $1", stream).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			},
			KafkaDown: w.cut, KafkaUp: w.mend,
		}
	})
}
