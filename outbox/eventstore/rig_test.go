package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/outbox/eventstore"
	"github.com/holdwall/outbox-relay/outbox/eventstore/storetest"
	"github.com/holdwall/outbox-relay/test/harness"
)

const (
	topic      = "events"
	partitions = 4
)

// line is the way to the broker, which can be cut: connections break and no
// new one is made.
type line struct {
	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
	wrap  func(net.Conn) net.Conn // nil: as it is
}

func (l *line) option() kgo.Opt {
	return kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, host)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.down {
			c.Close()
			return nil, errors.New("the line is cut")
		}
		if l.conns == nil {
			l.conns = map[net.Conn]bool{}
		}
		l.conns[c] = true
		if l.wrap != nil {
			return l.wrap(c), nil
		}
		return c, nil
	})
}

func (l *line) cut(testing.TB) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

func (l *line) mend(testing.TB) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

// broker is an in-process one with an empty topic.
type broker struct {
	cluster *kfake.Cluster
	addrs   []string
}

func newBroker(t testing.TB) *broker {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	b := &broker{cluster: c, addrs: c.ListenAddrs()}
	cl := b.client(t)
	if err := eventstore.CreateTopic(t.Context(), cl, topic, partitions, 1); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *broker) client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(b.addrs...))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// opts make a client that notices quickly that the line is mended.
func (b *broker) opts(l *line) []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(b.addrs...), l.option(), kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
	}
}

func (b *broker) config(l *line) eventstore.KafkaConfig {
	return eventstore.KafkaConfig{
		Topic: topic, Partitions: partitions, Timeout: 2 * time.Second, DuplicateWindow: 100, Attempts: 200,
		Opts: append(b.opts(l), kgo.RetryTimeout(2*time.Second)),
	}
}

func openKafka(t testing.TB, cfg eventstore.KafkaConfig) *eventstore.Kafka {
	t.Helper()
	k, err := eventstore.OpenKafka(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func kafkaRig(t testing.TB) storetest.Rig {
	b, l := newBroker(t), new(line)
	return storetest.Rig{
		Open:      func(t testing.TB) eventstore.Store { return openKafka(t, b.config(l)) },
		KafkaDown: l.cut, KafkaUp: l.mend,
	}
}

// tables is a database with log and outbox.
type tables struct {
	db   *harness.Database
	pool *pgxpool.Pool
}

func newTables(t testing.TB) *tables {
	t.Helper()
	db := harness.Postgres(t).NewDatabase(t)
	for _, schema := range []func() ([]string, error){
		func() ([]string, error) { return eventstore.Schema(eventstore.DefaultTable) },
		func() ([]string, error) { return outbox.Schema(outbox.DefaultTable) },
	} {
		statements, err := schema()
		if err != nil {
			t.Fatal(err)
		}
		db.Exec(t, statements...)
		db.Exec(t, statements...) // a second time must change nothing
	}
	return &tables{db, newPool(t, db)}
}

func newPool(t testing.TB, db *harness.Database) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), db.URL()+"&pool_max_conns=4")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func (d *tables) store(t testing.TB, cfg eventstore.DatabaseConfig) *eventstore.Database {
	t.Helper()
	s, err := eventstore.NewDatabase(d.pool, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *tables) begin(t testing.TB) pgx.Tx {
	t.Helper()
	tx, err := d.db.Connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func (d *tables) rows(t testing.TB, stream string) int {
	t.Helper()
	var n int
	if err := d.pool.QueryRow(t.Context(), "SELECT count(*) FROM outbox.events WHERE aggregateid = $1", stream).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// clear makes the log empty for the next test: a database of its own costs
// more than most tests do.
func (d *tables) clear(t testing.TB) {
	t.Helper()
	d.db.Exec(t, "TRUNCATE outbox.event_log, outbox.events")
}

func databaseRig(d *tables) func(t testing.TB) storetest.Rig {
	return func(t testing.TB) storetest.Rig {
		d.clear(t)
		return storetest.Rig{
			Open:  func(t testing.TB) eventstore.Store { return d.store(t, eventstore.DatabaseConfig{}) },
			Begin: d.begin, Rows: d.rows,
		}
	}
}

// relay stands for the relay: it publishes the outbox rows in the order of
// their commits for each key, with the relay's headers. It keeps the rows.
type relay struct {
	t    testing.TB
	d    *tables
	cl   *kgo.Client
	done map[string]bool // ids
	skip func(id string) bool
}

// startRelay publishes until the end of the test.
func startRelay(t testing.TB, d *tables, b *broker, l *line, skip func(id string) bool) {
	t.Helper()
	// It waits for Kafka as the relay does: for ever.
	r := &relay{t: t, d: d, cl: b.client(t, append(b.opts(l), kgo.DefaultProduceTopic(topic))...), done: map[string]bool{}, skip: skip}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := r.publish(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("test relay: %v", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func (r *relay) publish(ctx context.Context) error {
	rows, err := r.d.pool.Query(ctx, `SELECT id::text, type, aggregatetype, aggregateid, payload_bytes, content_type, created_at,
		coalesce(traceparent, ''), coalesce(tracestate, ''), (SELECT array_agg(k || '=' || v) FROM jsonb_each_text(headers) AS h (k, v))
		FROM outbox.events ORDER BY aggregateid, (headers->>'eventstore.version')::bigint`)
	if err != nil {
		return err
	}
	var records []*kgo.Record
	var id, typ, kind, key, media, parent, state string
	var payload []byte
	var at time.Time
	var headers []string
	_, err = pgx.ForEachRow(rows, []any{&id, &typ, &kind, &key, &payload, &media, &at, &parent, &state, &headers}, func() error {
		if r.done[id] {
			return nil
		}
		r.done[id] = true
		if r.skip != nil && r.skip(id) {
			return nil // a dead letter
		}
		rec := &kgo.Record{Key: []byte(key), Value: append([]byte{}, payload...), Timestamp: at}
		for _, h := range [][2]string{{"id", id}, {"type", typ}, {"aggregatetype", kind}, {"aggregateid", key}, {"content-type", media}, {"traceparent", parent}, {"tracestate", state}} {
			if h[1] != "" {
				rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
			}
		}
		for _, h := range headers {
			for i := range h {
				if h[i] == '=' {
					rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: h[:i], Value: []byte(h[i+1:])})
					break
				}
			}
		}
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: "outbox.lsn", Value: []byte("0/1")})
		records = append(records, rec)
		return nil
	})
	if err != nil || len(records) == 0 {
		return err
	}
	if err := r.cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	return nil
}

func hybridConfig(b *broker, l *line) eventstore.HybridConfig {
	return eventstore.HybridConfig{
		Topics: []string{topic}, Opts: b.opts(l),
		Settle: 50 * time.Millisecond, Patience: 500 * time.Millisecond, Retry: 50 * time.Millisecond,
	}
}

func newHybrid(t testing.TB, db *eventstore.Database, cfg eventstore.HybridConfig) *eventstore.Hybrid {
	t.Helper()
	h, err := eventstore.NewHybrid(db, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func hybridRig(d *tables) func(t testing.TB) storetest.Rig {
	return func(t testing.TB) storetest.Rig {
		d.clear(t)
		b, l := newBroker(t), new(line)
		startRelay(t, d, b, l, nil)
		return storetest.Rig{
			Open: func(t testing.TB) eventstore.Store {
				return newHybrid(t, d.store(t, eventstore.DatabaseConfig{}), hybridConfig(b, l))
			},
			Begin: d.begin, Rows: d.rows, KafkaDown: l.cut, KafkaUp: l.mend,
		}
	}
}
