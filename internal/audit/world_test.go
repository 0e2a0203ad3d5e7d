package audit_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/sink"
	"github.com/holdwall/outbox-relay/test/harness"
)

// world is a table, a cluster and what a relay would have written between them,
// by hand: what is compared must not come from what compares.
type world struct {
	t       *testing.T
	db      *harness.Database
	conn    *pgx.Conn
	cl      *kgo.Client
	cfg     audit.Config
	ordinal uint64
	lsn     uint64
}

const table = `CREATE TABLE outbox.events (id text PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL,
	payload jsonb, payload_bytes bytea, headers jsonb NOT NULL DEFAULT '{}', topic text, message_key text, kafka_partition int,
	content_type text, schema_version int, traceparent text, tracestate text, created_at timestamptz NOT NULL DEFAULT clock_timestamp())`

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: harness.Postgres(t).NewDatabase(t), lsn: 0x100}
	w.db.Exec(t, `CREATE SCHEMA outbox`, table, `CREATE PUBLICATION outbox_pub FOR TABLE outbox.events WITH (publish = 'insert')`)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	for name, partitions := range map[string]int32{"events": 2, "dlq": 1, "ckpt": 1, "other": 1} {
		if err := cluster.CreateTopic(name, partitions, nil); err != nil {
			t.Fatal(err)
		}
	}
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
	w.cl, err = kgo.NewClient(append(opts, kgo.RecordPartitioner(sink.Partitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cl.Close)
	w.conn = w.db.Connect(t)
	w.cfg = audit.Config{
		Conn: w.conn, SystemID: w.ask(`SELECT system_identifier::text FROM pg_control_system()`), Timeline: 1,
		Table: outbox.Table{Schema: "outbox", Name: "events"}, Columns: outbox.DefaultColumns(), Shape: w.shape(),
		Slot: w.db.Slot("relay"), Publication: "outbox_pub", Kafka: opts,
		Router:  sink.RouterConfig{EventsTopic: "events", DeniedTopics: []string{"dlq", "ckpt"}},
		Letters: "dlq", Checkpoint: &checkpoint.Log{Topic: "ckpt", Name: "orders", Opts: opts},
		Examples: 20, Wait: 0, Stall: 5 * time.Second,
	}
	return w
}

func (w *world) shape() []outbox.Column {
	w.t.Helper()
	rows, err := w.conn.Query(w.t.Context(), `SELECT attname, atttypid FROM pg_attribute WHERE attrelid = 'outbox.events'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`)
	if err != nil {
		w.t.Fatal(err)
	}
	cols, err := pgx.CollectRows(rows, pgx.RowToStructByPos[outbox.Column])
	if err != nil {
		w.t.Fatal(err)
	}
	return cols
}

func (w *world) ask(sql string) string {
	w.t.Helper()
	var s string
	if err := w.conn.QueryRow(w.t.Context(), sql).Scan(&s); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// insert writes rows of one key, created a minute apart and ending an hour ago.
func (w *world) insert(ids ...string) {
	w.t.Helper()
	for i, id := range ids {
		w.db.Exec(w.t, fmt.Sprintf(`INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, payload, headers, created_at)
		    VALUES ('%s', 'order', 'k1', 'Created', '{"b": 1,   "a": "%s"}', '{"tenant": "x"}', now() - interval '1 hour' - interval '1 minute' * %d)`, id, id, len(ids)-i))
	}
}

// event is the record that the relay makes of a row of insert.
func (w *world) event(id string) *kgo.Record {
	w.ordinal++
	w.lsn += 0x10
	header := func(k, v string) kgo.RecordHeader { return kgo.RecordHeader{Key: k, Value: []byte(v)} }
	return &kgo.Record{
		Topic: "events", Key: []byte("k1"), Value: []byte(`{"a": "` + id + `", "b": 1}`), Timestamp: time.Now().Add(-time.Hour),
		Headers: []kgo.RecordHeader{
			header("id", id), header("type", "Created"), header("aggregatetype", "order"), header("aggregateid", "k1"),
			header("content-type", "application/json"), header("tenant", "x"),
			header("outbox.lsn", fmt.Sprintf("0/%08X", w.lsn)), header("outbox.seq", "1"), header("outbox.source", "shop/relay"),
			header("outbox.tli", "1"), header("outbox.ord", fmt.Sprint(w.ordinal)), header("outbox.ckpt", "7"),
		},
	}
}

func set(rec *kgo.Record, key, value string) *kgo.Record {
	for i := range rec.Headers {
		if rec.Headers[i].Key == key {
			rec.Headers[i].Value = []byte(value)
			return rec
		}
	}
	rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	return rec
}

func (w *world) produce(recs ...*kgo.Record) {
	w.t.Helper()
	if err := w.cl.ProduceSync(w.t.Context(), recs...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// publish is insert and what the relay makes of it.
func (w *world) publish(ids ...string) {
	w.t.Helper()
	w.insert(ids...)
	for _, id := range ids {
		w.produce(w.event(id))
	}
}

// checkpoint says that everything below a position is published.
func (w *world) checkpoint(end string) {
	w.t.Helper()
	lsn, err := pglogrepl.ParseLSN(end)
	if err != nil {
		w.t.Fatal(err)
	}
	rec, err := checkpoint.Checkpoint{
		Seq: 7, SessionID: "s", SessionNo: 1, Pos: checkpoint.Position{Timeline: 1, EndLSN: lsn}, Time: time.Now(),
		Source: checkpoint.Source{SystemID: w.cfg.SystemID, Database: "shop", Slot: w.cfg.Slot},
	}.Record("ckpt", "orders")
	if err != nil {
		w.t.Fatal(err)
	}
	w.produce(rec)
}

// now is where the WAL is.
func (w *world) now() string { return w.ask(`SELECT pg_current_wal_insert_lsn()::text`) }

// covered is a checkpoint that no row is behind.
func (w *world) covered() { w.checkpoint("FFFFFFFF/0") }

func (w *world) run() *audit.Report {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	r, err := audit.Run(ctx, w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// counts is what a report says, without what is zero.
func counts(r *audit.Report) map[string]int64 {
	all := map[string]int64{
		"rows": r.Rows, "found": r.Found, "pending": r.Pending, "undecided": r.Undecided, "expired": r.Expired,
		"events": r.Events, "replays": r.Replays, "letters": r.Letters, "consumer letters": r.ConsumerLetters,
		"foreign": r.Foreign, "deleted": r.Deleted, "newer": r.Newer,
		"missing": r.Missing.Count, "doubled": r.Doubled.Count, "reordered": r.Reordered.Count, "different": r.Different.Count,
	}
	for k, n := range all {
		if n == 0 {
			delete(all, k)
		}
	}
	return all
}

func (w *world) trim(topic string, partition int32, before int64) {
	w.t.Helper()
	var offsets kadm.Offsets
	offsets.AddOffset(topic, partition, before, -1)
	done, err := kadm.NewClient(w.cl).DeleteRecords(w.t.Context(), offsets)
	if err == nil {
		err = done.Error()
	}
	if err != nil {
		w.t.Fatal(err)
	}
}
