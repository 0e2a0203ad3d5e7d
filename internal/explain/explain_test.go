package explain_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/explain"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

const id = "0198c0de-7a53-4b4e-9d4e-000000000001"

// world is a table, a slot that stands for the relay, and a broker.
type world struct {
	t   *testing.T
	db  *harness.Database
	cl  *kgo.Client
	cfg explain.Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: harness.Postgres(t).NewDatabase(t)}
	statements, err := outbox.Schema(outbox.DefaultTable)
	if err != nil {
		t.Fatal(err)
	}
	slot := w.db.Slot("relay")
	w.db.Exec(t, append(statements, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")...)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "events", "other"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
	if w.cl, err = kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cl.Close)
	conn, err := pgconn.ParseConfig(w.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := replication.Connect(t.Context(), replication.Config{Conn: conn, Slot: slot, Schema: "outbox", Table: "events"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	w.cfg = explain.Config{
		ID: id, Server: srv, Slot: slot, Table: outbox.Table{Schema: "outbox", Name: "events"}, Columns: outbox.DefaultColumns(),
		Events: "events", DLQ: "dlq", Brokers: "b:9092", Kafka: opts, Letters: func(context.Context) ([]explain.Letter, error) { return nil, nil },
	}
	return w
}

func (w *world) row(topic string) {
	w.db.Exec(w.t, "INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, topic) VALUES ('"+id+"', 'order', '1', 'placed', nullif('"+topic+"', ''))")
}

// relay has passed everything.
func (w *world) relay() {
	w.db.Exec(w.t, "SELECT pg_logical_emit_message(true, 't', '')", "SELECT pg_replication_slot_advance('"+w.cfg.Slot+"', pg_current_wal_insert_lsn())")
}

func (w *world) produce(topic, id string, at time.Time) {
	w.t.Helper()
	rec := &kgo.Record{Topic: topic, Partition: 1, Timestamp: at, Value: []byte("secret payload"), Key: []byte("secret key"), Headers: []kgo.RecordHeader{
		{Key: "id", Value: []byte(id)}, {Key: "outbox.lsn", Value: []byte("0/10")}, {Key: "outbox.ckpt", Value: []byte("7")}, {Key: "id", Value: []byte("another")},
	}}
	if err := w.cl.ProduceSync(w.t.Context(), rec).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) run(want string) explain.Answer {
	w.t.Helper()
	a, err := explain.Run(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	if a.Verdict != want {
		w.t.Errorf("%s, want %s: %+v", a.Verdict, want, a)
	}
	return a
}

func TestStations(t *testing.T) {
	w := newWorld(t)
	w.relay()
	if a := w.run(explain.Unknown); !fault.Has(a.Fault(), fault.EventUnknown) {
		t.Errorf("%v", a.Fault())
	}
	w.cfg.ID = "no uuid; DROP TABLE"
	w.run(explain.Unknown)
	w.cfg.ID = id
	w.row("")
	a := w.run(explain.Pending)
	if a.Fault() != nil || a.Row == nil || a.Row.XID == 0 || a.Row.Table != "outbox.events" || a.Row.CreatedAt == nil || a.Slot.LeftBytes <= 0 {
		t.Errorf("%+v", a)
	}
	// What is printed can be pasted.
	for _, s := range a.Steps {
		if s.SQL != "" {
			if _, err := w.cfg.Server.Conn().Exec(t.Context(), s.SQL); err != nil {
				t.Errorf("%s: %v", s.SQL, err)
			}
		}
	}
	w.relay()
	if a := w.run(explain.Missing); !fault.Has(a.Fault(), fault.EventMissing) {
		t.Errorf("%v", a.Fault())
	}
	w.cfg.Letters = func(context.Context) ([]explain.Letter, error) {
		return []explain.Letter{{State: "open", Code: "OBX-2002", Reason: "too_large"}}, nil
	}
	w.run(explain.DeadLetter)
	// A record that is older than the row says, which only the second look finds.
	w.produce("events", "other", time.Now())
	w.produce("events", id, time.Now().Add(-24*time.Hour))
	a = w.run(explain.Published)
	if len(a.Records) != 1 || a.Records[0].Partition != 1 || a.Records[0].Offset != 1 || a.Records[0].Checkpoint != "7" || a.Fault() != nil {
		t.Errorf("%+v", a)
	}
	for _, s := range a.Steps {
		if strings.Contains(s.Command+s.SQL+a.Text, "secret") {
			t.Errorf("%+v", s)
		}
	}
}

// The topic that the row names is searched, and those that somebody names.
func TestTopicOfTheRow(t *testing.T) {
	w := newWorld(t)
	w.row("other")
	w.produce("other", id, time.Now())
	if a := w.run(explain.Published); len(a.Topics) != 1 || a.Topics[0] != "other" {
		t.Errorf("%+v", a)
	}
	w.db.Exec(t, "DELETE FROM outbox.events")
	w.relay()
	w.run(explain.Unknown)
	w.cfg.Topics = []string{"other", "nowhere"}
	if a := w.run(explain.Published); a.Row != nil {
		t.Errorf("%+v", a)
	}
	w.cfg.Topics, w.cfg.Template = nil, "{type}"
	w.db.Exec(t, "INSERT INTO outbox.events (id, aggregatetype, aggregateid, type) VALUES ('"+id+"', 'order', '1', 'other')")
	w.run(explain.Published)
}

// Without proof nothing is called missing.
func TestUndecided(t *testing.T) {
	w := newWorld(t)
	w.row("")
	w.relay()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	<-ctx.Done()
	w.cfg.Letters = func(ctx context.Context) ([]explain.Letter, error) { return nil, ctx.Err() }
	if a, err := explain.Run(ctx, w.cfg); err == nil && !fault.Has(a.Fault(), fault.EventUndecided) {
		t.Errorf("%v %+v", err, a)
	}
}

// An open transaction hides what may be behind it; a lost slot knows nothing.
func TestNoProof(t *testing.T) {
	w := newWorld(t)
	w.row("")
	w.relay()
	tx, err := kgo.NewClient(append(w.cfg.Kafka, kgo.TransactionalID("x"), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if err := tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := tx.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.run(explain.Undecided)
	if err := tx.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	w.run(explain.Missing)
	w.db.Exec(t, "SELECT pg_drop_replication_slot('"+w.cfg.Slot+"')")
	w.run(explain.Undecided)
}
