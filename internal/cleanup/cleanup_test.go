package cleanup_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/cleanup"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/harness"
)

// world is a table, a slot that stands for the relay, and a cleaner.
type world struct {
	t    *testing.T
	db   *harness.Database
	conn *pgx.Conn
	cfg  cleanup.Config
	sql  []string // that was carried out
}

func newWorld(t *testing.T, partitioned bool) *world {
	t.Helper()
	w := &world{t: t, db: harness.Postgres(t).NewDatabase(t)}
	schema := outbox.Schema
	if partitioned {
		schema = outbox.SchemaPartitioned
	}
	statements, err := schema(outbox.DefaultTable)
	if err != nil {
		t.Fatal(err)
	}
	w.db.Exec(t, statements...)
	slot := w.db.Slot("relay")
	w.db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	w.conn = w.connect()
	w.cfg = cleanup.Config{
		Table: outbox.Table{Schema: "outbox", Name: "events"}, CreatedAt: "created_at", Slot: slot, Retention: 7 * 24 * time.Hour,
		Patience: time.Minute, Interval: 24 * time.Hour, Ahead: 2, Did: func(sql string) { w.sql = append(w.sql, sql) },
	}
	return w
}

func (w *world) connect() *pgx.Conn {
	w.t.Helper()
	cfg, err := pgx.ParseConfig(w.db.URL())
	if err != nil {
		w.t.Fatal(err)
	}
	cfg.RuntimeParams["TimeZone"], cfg.RuntimeParams["DateStyle"] = "UTC", "ISO"
	conn, err := pgx.ConnectConfig(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) })
	return conn
}

// impatient is a new cleaner that waits for nobody.
func (w *world) impatient() *cleanup.Cleaner {
	cfg := w.cfg
	cfg.Patience = 0
	return cleanup.New(w.conn, cfg)
}

// insert writes a row that was made some days ago.
func insert(name string, days int) string {
	return fmt.Sprintf("INSERT INTO outbox.events (aggregatetype, aggregateid, type, created_at) VALUES ('t', '%s', 'made', now() - interval '%d days')", name, days)
}

// relay has everything up to now in Kafka.
func (w *world) relay() {
	w.t.Helper()
	// On an idle server the insert position may stand behind the header of a page
	// that nothing has been written to yet.
	w.db.Exec(w.t, "SELECT pg_logical_emit_message(true, 't', '')", "SELECT pg_replication_slot_advance('"+w.cfg.Slot+"', pg_current_wal_insert_lsn())")
}

// follow is a relay that keeps up, until stop is called.
func (w *world) follow() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			w.relay()
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() { close(end); <-ended }
}

func (w *world) left() string {
	w.t.Helper()
	rows, err := w.conn.Query(w.t.Context(), "SELECT aggregateid FROM outbox.events ORDER BY 1")
	if err != nil {
		w.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Join(all, " ")
}

// run cleans while the relay keeps up.
func (w *world) run(c *cleanup.Cleaner) cleanup.Result {
	w.t.Helper()
	defer w.follow()()
	return w.runAlone(c)
}

// runAlone cleans while the relay stands still.
func (w *world) runAlone(c *cleanup.Cleaner) cleanup.Result {
	w.t.Helper()
	r, err := c.Run(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// A row goes only if it is old and its transaction lies wholly below what is
// confirmed. Neither its age nor the id of its transaction is enough: here one
// transaction is open for long and commits late, and the relay is behind.
func TestLateCommitIsKept(t *testing.T) {
	w := newWorld(t, false)
	w.db.Exec(t, insert("before", 30))
	late, err := w.connect().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := late.Exec(t.Context(), insert("late", 30)); err != nil {
		t.Fatal(err)
	}
	// In a subtransaction, whose id is another.
	if _, err := late.Exec(t.Context(), "SAVEPOINT s; "+insert("later", 30)+"; RELEASE s"); err != nil {
		t.Fatal(err)
	}
	w.db.Exec(t, insert("beside", 30), insert("young", 1))
	w.relay()
	c := cleanup.New(w.conn, w.cfg)
	// What committed beside the open transaction is in Kafka too, but its id
	// does not prove it.
	if r := w.run(c); r.Rows != 1 || w.left() != "beside young" {
		t.Fatalf("%+v, left: %s", r, w.left())
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The relay has not seen the late commit.
	if r := w.runAlone(c); r.Rows != 0 || w.left() != "beside late later young" {
		t.Errorf("by the old horizon: %+v, left: %s", r, w.left())
	}
	if _, err := w.impatient().Run(t.Context()); !fault.Has(err, fault.CleanupBehind) || w.left() != "beside late later young" {
		t.Errorf("by a new horizon: %v, left: %s", err, w.left())
	}
	w.relay()
	if r := w.run(c); r.Rows != 3 || w.left() != "young" {
		t.Errorf("%+v, left: %s", r, w.left())
	}
}

// A transaction that is prepared is open, whoever has left it so.
func TestPreparedTransactionIsKept(t *testing.T) {
	w := newWorld(t, false)
	var most int
	if err := w.conn.QueryRow(t.Context(), "SELECT current_setting('max_prepared_transactions')::int").Scan(&most); err != nil {
		t.Fatal(err)
	}
	if most == 0 {
		t.Skip("the server allows no prepared transactions")
	}
	name := w.db.Name
	w.db.Exec(t, "BEGIN; "+insert("prepared", 30)+"; PREPARE TRANSACTION '"+name+"'")
	w.relay()
	c := cleanup.New(w.conn, w.cfg)
	w.run(c)
	w.db.Exec(t, "COMMIT PREPARED '"+name+"'")
	if r := w.runAlone(c); r.Rows != 0 || w.left() != "prepared" {
		t.Errorf("%+v, left: %s", r, w.left())
	}
}

func TestLateCommitKeepsItsPartition(t *testing.T) {
	w := newWorld(t, true)
	old := time.Now().UTC().AddDate(0, 0, -30)
	for _, r := range cleanup.Ranges(old, 24*time.Hour, 1) {
		w.db.Exec(t, r.FirstSQL(w.cfg.Table))
	}
	w.db.Exec(t, insert("before", 29))
	late, err := w.connect().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := late.Exec(t.Context(), insert("late", 30)); err != nil {
		t.Fatal(err)
	}
	w.relay()
	c := cleanup.New(w.conn, w.cfg)
	r := w.run(c)
	// The lock on the table is what the open transaction denies, to both.
	if len(r.Dropped) != 0 || len(r.Kept) != 2 || len(r.Created) != 3 || !strings.Contains(r.Kept[0].Why, "open transaction") || w.left() != "before" {
		t.Fatalf("%+v", r)
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = w.runAlone(c) // by the old horizon
	if len(r.Dropped) != 1 || len(r.Kept) != 1 || !strings.Contains(r.Kept[0].Why, "may not be in Kafka") || w.left() != "late" || len(r.Created) != 0 {
		t.Fatalf("%+v, left: %s", r, w.left())
	}
	w.relay()
	if r = w.run(c); len(r.Dropped) != 1 || len(r.Kept) != 0 || w.left() != "" {
		t.Fatalf("%+v, left: %s", r, w.left())
	}
}

// A partition that was detached by a run that died, or that holds a row which
// came between two looks, is dropped by a later one.
func TestDetachedPartition(t *testing.T) {
	w := newWorld(t, true)
	old := cleanup.Ranges(time.Now().UTC().AddDate(0, 0, -30), 24*time.Hour, 0)[0]
	w.db.Exec(t, old.FirstSQL(w.cfg.Table), insert("old", 30))
	w.relay()
	c := cleanup.New(w.conn, w.cfg)
	w.cfg.DryRun = true
	dry := w.run(cleanup.New(w.conn, w.cfg))
	if len(dry.Dropped) != 1 || w.left() != "old" {
		t.Fatalf("%+v", dry)
	}
	// As in the plan, up to the drop; and somebody writes to it by its own name.
	i := slices.IndexFunc(w.sql, func(s string) bool { return strings.HasPrefix(s, "COMMENT") })
	w.db.Exec(t, w.sql[i:i+2]...)
	w.db.Exec(t, strings.Replace(insert("stray", 30), "outbox.events", dry.Dropped[0], 1))
	w.cfg.DryRun = false
	if _, err := w.impatient().Run(t.Context()); !fault.Has(err, fault.CleanupBehind) {
		t.Fatalf("%v", err)
	}
	if r := w.run(c); len(r.Dropped) != 1 || r.Dropped[0] != dry.Dropped[0] {
		t.Errorf("%+v", r)
	}
}

// Without a default partition nobody is locked out.
func TestDetachConcurrently(t *testing.T) {
	w := newWorld(t, true)
	w.db.Exec(t, "DROP TABLE outbox.events_default")
	old := cleanup.Ranges(time.Now().UTC().AddDate(0, 0, -30), 24*time.Hour, 0)[0]
	w.db.Exec(t, old.FirstSQL(w.cfg.Table), insert("old", 30))
	w.relay()
	r := w.run(cleanup.New(w.conn, w.cfg))
	if len(r.Dropped) != 1 || !slices.ContainsFunc(w.sql, func(s string) bool { return strings.HasSuffix(s, "CONCURRENTLY") }) {
		t.Errorf("%+v\n%s", r, strings.Join(w.sql, "\n"))
	}
}

// What the default partition holds is removed row by row, and is in the way of
// a new partition until then.
func TestDefaultPartition(t *testing.T) {
	w := newWorld(t, true)
	w.db.Exec(t, insert("stray", 30), insert("today", 0))
	w.relay()
	r := w.run(cleanup.New(w.conn, w.cfg))
	if r.Rows != 1 || w.left() != "today" || len(r.Created) != 2 || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], fault.CleanupDefault.ID) {
		t.Errorf("%+v, left: %s", r, w.left())
	}
	// Rows of tomorrow go to their partition.
	w.db.Exec(t, insert("tomorrow", -1))
	var where string
	if err := w.conn.QueryRow(t.Context(), "SELECT tableoid::regclass::text FROM outbox.events WHERE aggregateid = 'tomorrow'").Scan(&where); err != nil || !slices.Contains(r.Created, where) {
		t.Errorf("%v: in %s, made %v", err, where, r.Created)
	}
}

func TestPartmanIsLeftAlone(t *testing.T) {
	w := newWorld(t, true)
	old := cleanup.Ranges(time.Now().UTC().AddDate(0, 0, -30), 24*time.Hour, 0)[0]
	w.db.Exec(t, old.FirstSQL(w.cfg.Table), insert("old", 30), "CREATE SCHEMA partman", "CREATE TABLE partman.part_config (parent_table text)",
		`SET allow_system_table_mods = on; INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
		   SELECT 999999, 'pg_partman', 10, oid, false, '5.1.0' FROM pg_namespace WHERE nspname = 'partman'`)
	w.relay()
	c := cleanup.New(w.conn, w.cfg)
	if r := w.run(c); len(r.Warnings) != 0 || len(r.Created) == 0 {
		t.Errorf("it does not manage this table: %+v", r)
	}
	w.db.Exec(t, insert("older", 30), "INSERT INTO partman.part_config VALUES ('outbox.events')")
	w.db.Exec(t, "CREATE TABLE outbox.older PARTITION OF outbox.events FOR VALUES FROM (MINVALUE) TO (now() - interval '40 days')")
	w.relay()
	r := w.run(c)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], fault.CleanupPartman.ID) || len(r.Dropped) != 1 || len(r.Created) != 0 || w.left() != "older" {
		t.Errorf("%+v, left: %s", r, w.left())
	}
}

func TestBounds(t *testing.T) {
	w := newWorld(t, false)
	w.db.Exec(t, "INSERT INTO outbox.events (aggregatetype, aggregateid, type, created_at) SELECT 't', g, repeat('x', 200), now() - interval '30 days' FROM generate_series(1, 50000) g",
		insert("young", 1))
	w.relay()
	w.cfg.DryRun = true
	if r := w.run(cleanup.New(w.conn, w.cfg)); r.Rows != 50000 {
		t.Fatalf("dry run: %+v", r)
	}
	w.cfg.DryRun, w.cfg.MaxRows = false, 20000
	steps := int64(0)
	w.cfg.Progress = func(done, total int64) { steps = max(steps, total) }
	c := cleanup.New(w.conn, w.cfg)
	if r := w.run(c); r.Rows != 20000 || !r.More {
		t.Fatalf("%+v", r)
	}
	w.cfg.MaxRows, w.cfg.Pause = 0, time.Millisecond
	// A row that somebody holds is let be, and so are its neighbours.
	held, err := w.connect().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := held.Exec(t.Context(), "SELECT FROM outbox.events WHERE aggregateid = '50000' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	w.sql = nil
	c = cleanup.New(w.conn, w.cfg)
	r := w.run(c)
	if r.Skipped == 0 || r.Rows == 0 || r.Rows == 30000 || steps < 1024 {
		t.Errorf("%+v, %d pages", r, steps)
	}
	if err := held.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := w.run(c); r.Skipped != 0 || w.left() != "young" {
		t.Errorf("%+v", r)
	}
}

// Without the slot, and with a Kafka that has less than the slot says, nothing
// goes.
func TestNothingIsGuessed(t *testing.T) {
	w := newWorld(t, false)
	w.db.Exec(t, insert("old", 30))
	w.relay()
	w.cfg.Covered = func(context.Context) (pglogrepl.LSN, error) { return 1, nil }
	if _, err := w.impatient().Run(t.Context()); !fault.Has(err, fault.CleanupBehind) {
		t.Errorf("Kafka has less: %v", err)
	}
	away := errors.New("away")
	stop := w.follow()
	w.cfg.Covered = func(context.Context) (pglogrepl.LSN, error) { return 0, away }
	if _, err := cleanup.New(w.conn, w.cfg).Run(t.Context()); !errors.Is(err, away) {
		t.Errorf("Kafka is away: %v", err)
	}
	stop()
	w.cfg.Covered = nil
	w.db.Exec(t, "SELECT pg_drop_replication_slot('"+w.cfg.Slot+"')")
	if _, err := w.impatient().Run(t.Context()); !fault.Has(err, fault.CleanupBlind) {
		t.Errorf("no slot: %v", err)
	}
	if w.left() != "old" {
		t.Errorf("left: %s", w.left())
	}
	w.cfg.Table.Name = "nothing"
	if _, err := w.impatient().Run(t.Context()); !fault.Has(err, fault.TableMissing) {
		t.Errorf("no table: %v", err)
	}
}
