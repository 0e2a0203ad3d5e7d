package eventstore_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "github.com/lib/pq"              // the driver "postgres"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func one(typ string) eventstore.Event { return eventstore.Event{Type: typ} }

func mustAppend(t testing.TB, s eventstore.Store, stream string, types ...string) {
	t.Helper()
	for _, typ := range types {
		if _, err := s.Append(within(t), stream, eventstore.Any, one(typ)); err != nil {
			t.Fatal(err)
		}
	}
}

func types(events []eventstore.Recorded) []string {
	out := make([]string, len(events))
	for i, ev := range events {
		out[i] = ev.Type
	}
	return out
}

func load(t testing.TB, s eventstore.Store, stream string) []string {
	t.Helper()
	var out []eventstore.Recorded
	for ev, err := range s.Load(within(t), stream, 0) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ev)
	}
	return types(out)
}

func page(t testing.TB, s eventstore.Store, from eventstore.Position) []eventstore.Recorded {
	t.Helper()
	events, err := s.ReadAll(within(t), from, 100)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

var errEnough = errors.New("enough")

// follow runs a subscription beside the test. The channel yields its events.
func follow(t testing.TB, s eventstore.Store, from eventstore.Position) <-chan eventstore.Recorded {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	events, done := make(chan eventstore.Recorded, 10_000), make(chan error, 1)
	go func() {
		done <- s.Subscribe(ctx, from, func(_ context.Context, ev eventstore.Recorded) error { events <- ev; return nil })
	}()
	t.Cleanup(func() {
		cancel(errEnough)
		if err := <-done; !errors.Is(err, errEnough) {
			t.Errorf("the subscription ended with %v", err)
		}
	})
	return events
}

func next(t testing.TB, events <-chan eventstore.Recorded) eventstore.Recorded {
	t.Helper()
	select {
	case ev := <-events:
		return ev
	case <-within(t).Done():
		t.Fatal("no event came")
	}
	panic("unreachable")
}

// The trap of every log with a sequence: an event gets its place when it is
// inserted and is seen when it commits. Here the first commits last, and a
// reader that has gone past its place would never come back.
func TestLateCommit(t *testing.T) {
	d := newTables(t)
	s := d.store(t, eventstore.DatabaseConfig{Tick: time.Hour})
	events := follow(t, s, eventstore.Start)
	mustAppend(t, s, "s-0", "first")
	if ev := next(t, events); ev.Type != "first" {
		t.Fatalf("%s came first", ev.Type)
	}
	from := page(t, s, eventstore.Start)[0].Position

	late := d.begin(t)
	if _, err := s.AppendTx(within(t), late, "s-1", eventstore.NoStream, one("late")); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, "s-2", "early")
	if got := load(t, s, "s-2"); !slices.Equal(got, []string{"early"}) {
		t.Errorf("its own stream shows %v", got)
	}
	if got := page(t, s, from); len(got) != 0 {
		t.Fatalf("%v was read in front of a transaction that is still open", types(got))
	}
	if err := late.Commit(within(t)); err != nil {
		t.Fatal(err)
	}
	want := []string{"late", "early"}
	if got := types(page(t, s, from)); !slices.Equal(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
	if got := []string{next(t, events).Type, next(t, events).Type}; !slices.Equal(got, want) {
		t.Errorf("the subscription got %v, want %v", got, want)
	}
}

// A transaction that appends nothing hides events as well, and announces its
// end to nobody.
func TestHiddenWithoutNotify(t *testing.T) {
	d := newTables(t)
	s := d.store(t, eventstore.DatabaseConfig{Tick: time.Hour})
	other := d.begin(t)
	if _, err := other.Exec(t.Context(), "CREATE TABLE other (id int)"); err != nil { // takes a transaction id
		t.Fatal(err)
	}
	events := follow(t, s, eventstore.Start)
	mustAppend(t, s, "s", "a")
	if got := page(t, s, eventstore.Start); len(got) != 0 {
		t.Fatalf("%v is in front of the horizon", types(got))
	}
	if err := other.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ev := next(t, events); ev.Type != "a" {
		t.Errorf("got %s", ev.Type)
	}
}

// Transactions are ordered as numbers. As texts 1000 comes before 999.
func TestOrderAcrossPowersOfTen(t *testing.T) {
	d := newTables(t)
	s := d.store(t, eventstore.DatabaseConfig{})
	for i, xid := range []string{"99", "100", "101", "9", "10"} {
		d.db.Exec(t, fmt.Sprintf(`INSERT INTO outbox.event_log (stream, version, id, type, payload, content_type, headers, xid)
			VALUES ('s-%d', 1, gen_random_uuid(), '%s', '', '', '{}', '%s')`, i, xid, xid))
	}
	want := []string{"9", "10", "99", "100", "101"}
	var got []string
	for from := eventstore.Start; ; {
		events, err := s.ReadAll(within(t), from, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			break
		}
		got, from = append(got, types(events)...), events[len(events)-1].Position
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The twin for database/sql, with both drivers.
func TestAppendSQL(t *testing.T) {
	d := newTables(t)
	s := d.store(t, eventstore.DatabaseConfig{})
	for _, driver := range []string{"pgx", "postgres"} {
		t.Run(driver, func(t *testing.T) {
			ctx := within(t)
			pool, err := sql.Open(driver, d.db.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			stream := "s-" + driver
			events := []eventstore.Event{{Type: "a", Payload: []byte("\x00\\'\xff"), Headers: []outbox.Header{{Key: "k", Value: []byte(`"ü`)}}}, {Type: "b"}}
			for _, end := range []func(*sql.Tx) error{(*sql.Tx).Rollback, (*sql.Tx).Commit} {
				tx, err := pool.BeginTx(ctx, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Rollback()
				if version, err := s.AppendSQL(ctx, tx, stream, eventstore.NoStream, events...); err != nil || version != 2 {
					t.Fatalf("version %d, %v", version, err)
				}
				if version, err := s.AppendSQL(ctx, tx, stream, eventstore.Exact(7), events...); err != nil || version != 2 {
					t.Errorf("again: version %d, %v", version, err)
				}
				var conflict *eventstore.VersionConflict
				if _, err := s.AppendSQL(ctx, tx, stream, eventstore.NoStream, one("x")); !errors.As(err, &conflict) || conflict.Actual != 2 {
					t.Errorf("a conflict: %v", err)
				}
				if err := end(tx); err != nil {
					t.Fatal(err)
				}
			}
			if got := load(t, s, stream); !slices.Equal(got, []string{"a", "b"}) || d.rows(t, stream) != 2 {
				t.Errorf("the stream holds %v, the outbox %d rows", got, d.rows(t, stream))
			}
			for ev := range s.Load(ctx, stream, 0) {
				if ev.Type == "a" && (!bytes.Equal(ev.Payload, events[0].Payload) || !cmp.Equal(ev.Headers, events[0].Headers)) {
					t.Errorf("got %q %v", ev.Payload, ev.Headers)
				}
			}
			// The unique key's answer is understood from this driver as well.
			tx, err := pool.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			if _, err := tx.ExecContext(ctx, "SELECT 1"); err != nil {
				t.Fatal(err)
			}
			mustAppend(t, s, stream, "c")
			var conflict *eventstore.VersionConflict
			if _, err := s.AppendSQL(ctx, tx, stream, eventstore.Exact(2), one("x")); !errors.As(err, &conflict) || conflict.Actual != eventstore.UnknownVersion {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A log that was restored into another cluster has transactions that this one
// has not reached. It is refused rather than read in a wrong order.
func TestRestoredLog(t *testing.T) {
	d := newTables(t)
	s := d.store(t, eventstore.DatabaseConfig{})
	mustAppend(t, s, "s", "a")
	var position *eventstore.PositionError
	if _, err := s.ReadAll(within(t), "d1:4000000000.1", 10); !errors.As(err, &position) {
		t.Errorf("a position of another cluster: %v", err)
	}
	d.db.Exec(t, `UPDATE outbox.event_log SET xid = '4000000000'`)
	var foreign *eventstore.LogError
	if _, err := s.ReadAll(within(t), eventstore.Start, 10); !errors.As(err, &foreign) {
		t.Errorf("a log of another cluster: %v", err)
	}
	if err := s.Subscribe(within(t), eventstore.Start, nil); !errors.As(err, &foreign) {
		t.Errorf("a subscription to it: %v", err)
	}
	// The way out that docs/eventstore.md names.
	d.db.Exec(t, `UPDATE outbox.event_log SET xid = pg_current_xact_id()`)
	mustAppend(t, s, "s", "b")
	if got := types(page(t, s, eventstore.Start)); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("then it reads %v", got)
	}
}

// A table that is another one is no lost connection: the subscription ends.
func TestForeignTable(t *testing.T) {
	d := newTables(t)
	s := d.store(t, eventstore.DatabaseConfig{})
	mustAppend(t, s, "s", "a")
	d.db.Exec(t, "ALTER TABLE outbox.event_log ALTER created_at DROP DEFAULT, ALTER created_at TYPE text")
	for range 2 {
		if err := s.Subscribe(within(t), eventstore.Start, nil); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		d.db.Exec(t, "DROP TABLE IF EXISTS outbox.event_log")
	}
}

// The outbox row says where its event is, and Publish may change it.
func TestOutboxRows(t *testing.T) {
	d := newTables(t)
	d.db.Exec(t, "CREATE TABLE small (id uuid, aggregatetype text, aggregateid text, type text, payload bytea)")
	cols, err := outbox.ParseColumns("payload_bytes=payload")
	if err != nil {
		t.Fatal(err)
	}
	small, err := outbox.NewWriter("small", cols)
	if err != nil {
		t.Fatal(err)
	}
	s := d.store(t, eventstore.DatabaseConfig{})
	mustAppend(t, s, "order-1", "a", "b")
	var version, position, previous, kind string
	err = d.pool.QueryRow(t.Context(), `SELECT headers->>'eventstore.version', headers->>'eventstore.position', headers->>'eventstore.previous', aggregatetype
		FROM outbox.events WHERE type = 'b'`).Scan(&version, &position, &previous, &kind)
	if err != nil {
		t.Fatal(err)
	}
	events := page(t, s, eventstore.Start)
	want := []string{"2", strings.TrimPrefix(string(events[1].Position), "d1:"), strings.TrimPrefix(string(events[0].Position), "d1:"), "order"}
	if diff := cmp.Diff(want, []string{version, position, previous, kind}); diff != "" {
		t.Error(diff)
	}

	few := d.store(t, eventstore.DatabaseConfig{Outbox: small, Publish: func(ev eventstore.Recorded, row *outbox.Record) bool {
		row.Headers, row.ContentType, row.CreatedAt = nil, "", time.Time{}
		return ev.Type != "secret"
	}})
	mustAppend(t, few, "order-2", "a", "secret", "b")
	rows, err := d.pool.Query(t.Context(), "SELECT type FROM small ORDER BY type")
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("published %v, %v", got, err)
	}
	if got := load(t, few, "order-2"); len(got) != 3 {
		t.Errorf("the stream holds %v", got)
	}
}

// Connections end; subscriptions do not.
func TestSubscriptionOutlivesConnections(t *testing.T) {
	for name, cfg := range map[string]eventstore.DatabaseConfig{
		"notify": {Tick: 200 * time.Millisecond}, "tick": {Tick: 20 * time.Millisecond, NoNotify: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTables(t)
			s := d.store(t, cfg)
			events := follow(t, s, eventstore.Start)
			for i := range 3 {
				want := fmt.Sprint(i)
				mustAppend(t, s, "s", want)
				if ev := next(t, events); ev.Type != want {
					t.Fatalf("got %s, want %s", ev.Type, want)
				}
				d.db.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
				waitFor(t, d, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'", 0)
				d.pool.Reset() // whose connections the append would find dead
			}
		})
	}
}

func TestSchema(t *testing.T) {
	got, err := eventstore.Schema(`My."Event log"`)
	if err != nil || len(got) != 2 || got[0] != `CREATE SCHEMA IF NOT EXISTS "my"` || !strings.HasPrefix(got[1], `CREATE TABLE IF NOT EXISTS "my"."Event log" (`) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := eventstore.Schema("a b"); err == nil {
		t.Error("a bad name was taken")
	}
	if _, err := eventstore.NewDatabase(nil, eventstore.DatabaseConfig{Table: "a b"}); err == nil {
		t.Error("a bad name was taken")
	}
	f, err := eventstore.Migrations().Open("0001_event_log.sql")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
