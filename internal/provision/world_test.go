package provision_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/provision"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
	"github.com/holdwall/outbox-relay/test/harness"
)

// world is an empty database, an empty broker and the plan for both.
type world struct {
	db      *harness.Database
	cluster *kfake.Cluster
	plan    provision.Plan
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{db: harness.Postgres(t).NewDatabase(t)}
	var err error
	w.cluster, err = kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cluster.Close)
	conn, err := pgconn.ParseConfig(w.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	w.plan = provision.Plan{
		Source:  replication.Config{Conn: conn, Slot: w.db.Slot("relay"), Publication: "outbox_pub", Schema: "outbox", Table: "events"},
		Table:   outbox.Table{Schema: "outbox", Name: "events"},
		Columns: outbox.DefaultColumns(),
		Sink: sink.Config{
			Name: "orders", Version: "v0", CheckpointTopic: "ckpt",
			TransactionTimeout: 10 * time.Second, ReadBackTimeout: 5 * time.Second, MaxRecords: 10,
		},
		Kafka:  []kgo.Opt{kgo.SeedBrokers(w.cluster.ListenAddrs()...)},
		Topics: []provision.Topic{provision.CheckpointTopic("ckpt"), {Name: "events", Partitions: 4}},
		Log:    zerolog.Nop(),
	}
	return w
}

func (w *world) run(t *testing.T) (provision.Outcome, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return w.plan.Run(ctx)
}

func (w *world) mustRun(t *testing.T) provision.Outcome {
	t.Helper()
	out, err := w.run(t)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// state is what a relay would find in the checkpoint topic.
func (w *world) state(t *testing.T) checkpoint.State {
	t.Helper()
	log := checkpoint.Log{Topic: "ckpt", Name: "orders", Opts: w.plan.Kafka}
	state, err := log.Peek(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// ask reads one value from the database.
func (w *world) ask(t *testing.T, sql string) string {
	t.Helper()
	conn := w.db.Connect(t)
	defer conn.Close(t.Context())
	var s *string
	if err := conn.QueryRow(t.Context(), sql).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if s == nil {
		return "null"
	}
	return *s
}

func (w *world) slotLSN(t *testing.T) string {
	t.Helper()
	return w.ask(t, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '"+w.plan.Source.Slot+"'")
}

func (w *world) admin(t *testing.T) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(w.plan.Kafka...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

// intend writes the intent of an init that then died.
func (w *world) intend(t *testing.T, change func(*checkpoint.Source)) {
	t.Helper()
	if err := w.cluster.CreateTopic("ckpt", 1, provision.CheckpointTopic("ckpt").Configs); err != nil {
		t.Fatal(err)
	}
	src := checkpoint.Source{
		SystemID: w.ask(t, "SELECT system_identifier::text FROM pg_control_system()"), Database: w.db.Name, Slot: w.plan.Source.Slot,
	}
	if change != nil {
		change(&src)
	}
	rec, err := checkpoint.Intent{Source: src, Time: time.Now()}.Record("ckpt", "orders")
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(w.plan.Kafka...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) slots(t *testing.T) string {
	t.Helper()
	return w.ask(t, "SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()")
}

// as is the plan with the credentials of a role made for the test.
func (w *world) as(t *testing.T, role, rights string) {
	t.Helper()
	name := w.db.Slot(role)
	w.db.Exec(t, `CREATE ROLE "`+name+`" LOGIN `+rights)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, w.db.URL())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `DROP OWNED BY "`+name+`" CASCADE; DROP ROLE "`+name+`"`); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(w.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(name)
	if w.plan.Source.Conn, err = pgconn.ParseConfig(u.String()); err != nil {
		t.Fatal(err)
	}
}

// await asks until the answer comes.
func (w *world) await(t *testing.T, sql, want string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for w.ask(t, sql) != want {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s is %s", sql, want)
		}
	}
}
