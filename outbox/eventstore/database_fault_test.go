package eventstore_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

// What keeps versions apart is the unique key. The lock only makes that
// cheaper, so the store has to be right against a writer that does not take it.
func TestUniqueKeyDecides(t *testing.T) {
	d := newTables(t)
	s := d.store(t, eventstore.DatabaseConfig{})
	for _, tc := range []struct {
		name     string
		append   func(ctx context.Context, stream string) (int64, error)
		version  int64
		conflict *eventstore.VersionConflict
	}{
		{"any", func(ctx context.Context, stream string) (int64, error) {
			return s.Append(ctx, stream, eventstore.Any, one("ours"))
		}, 2, nil},
		{"no stream", func(ctx context.Context, stream string) (int64, error) {
			return s.Append(ctx, stream, eventstore.NoStream, one("ours"))
		}, 0, &eventstore.VersionConflict{Stream: "no stream", Expected: eventstore.NoStream, Actual: 1}},
		{"caller's transaction", func(ctx context.Context, stream string) (int64, error) {
			tx := d.begin(t)
			defer tx.Rollback(ctx)
			return s.AppendTx(ctx, tx, stream, eventstore.Any, one("ours"))
		}, 0, &eventstore.VersionConflict{Stream: "caller's transaction", Expected: eventstore.Any, Actual: eventstore.UnknownVersion}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := within(t)
			foreign := d.begin(t)
			defer foreign.Rollback(ctx)
			_, err := foreign.Exec(ctx, `INSERT INTO outbox.event_log (stream, version, id, type, payload, content_type, headers)
				VALUES ($1, 1, gen_random_uuid(), 'theirs', '', '', '{}')`, tc.name)
			if err != nil {
				t.Fatal(err)
			}
			type answer struct {
				version int64
				err     error
			}
			got := make(chan answer, 1)
			go func() {
				v, err := tc.append(ctx, tc.name)
				got <- answer{v, err}
			}()
			waitFor(t, d, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'", 1)
			if err := foreign.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			a := <-got
			var conflict *eventstore.VersionConflict
			if errors.As(a.err, &conflict) != (tc.conflict != nil) || tc.conflict != nil && *conflict != *tc.conflict || a.version != tc.version {
				t.Errorf("version %d, %v", a.version, a.err)
			}
		})
	}
}

// waitFor asks until a count is n.
func waitFor(t testing.TB, d *tables, query string, n int) {
	t.Helper()
	conn := d.db.Connect(t)
	for ctx := within(t); ; {
		var got int
		if err := conn.QueryRow(ctx, query).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got == n {
			return
		}
	}
}

// A caller's snapshot that is older than the stream is a conflict, and not a
// version that is given twice.
func TestRepeatableRead(t *testing.T) {
	d := newTables(t)
	s := d.store(t, eventstore.DatabaseConfig{})
	ctx := within(t)
	tx, err := d.db.Connect(t).BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, "SELECT 1"); err != nil { // takes the snapshot
		t.Fatal(err)
	}
	mustAppend(t, s, "s", "a")
	var conflict *eventstore.VersionConflict
	if _, err := s.AppendTx(ctx, tx, "s", eventstore.NoStream, one("b")); !errors.As(err, &conflict) || conflict.Actual != eventstore.UnknownVersion {
		t.Errorf("got %v", err)
	}
}

// commitConn loses the next COMMIT: its answer, or the request itself.
type commitConn struct {
	net.Conn
	line *commitLine
	deaf atomic.Bool
}

type commitLine struct{ answer, request, noWayBack atomic.Bool }

func (c *commitConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("commit\x00")) {
		if c.line.request.CompareAndSwap(true, false) {
			c.Close()
			return 0, net.ErrClosed
		}
		if c.line.answer.CompareAndSwap(true, false) {
			c.deaf.Store(true)
		}
	}
	return c.Conn.Write(b)
}

func (c *commitConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.deaf.Load() { // the server has answered, so it is done
		c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// A commit whose answer is lost happened or did not. The caller is told the
// version either way, and the events are there once.
func TestLostCommit(t *testing.T) {
	d := newTables(t)
	cfg, err := pgxpool.ParseConfig(d.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	wire := &commitLine{}
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if wire.noWayBack.Load() {
			return nil, errors.New("no way back")
		}
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &commitConn{Conn: c, line: wire}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	s, err := eventstore.NewDatabase(pool, eventstore.DatabaseConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for i, lose := range []*atomic.Bool{&wire.answer, &wire.request, &wire.answer} {
		lose.Store(true)
		version, err := s.Append(within(t), "s", eventstore.Exact(int64(i)), one("x"))
		if err != nil || version != int64(i)+1 || lose.Load() {
			t.Errorf("commit %d: version %d, %v; nothing was lost: %v", i, version, err, lose.Load())
		}
		if got := load(t, s, "s"); len(got) != i+1 {
			t.Errorf("commit %d: %d events", i, len(got))
		}
	}

	// If there is no way back to the server either, nobody knows, and the
	// error says so. The same events again are the way to find out.
	wire.answer.Store(true)
	wire.noWayBack.Store(true)
	events := []eventstore.Event{one("x")}
	var unknown *eventstore.OutcomeUnknown
	if _, err := s.Append(within(t), "s", eventstore.Exact(3), events...); !errors.As(err, &unknown) {
		t.Errorf("a commit in doubt: %v", err)
	}
	if _, err := s.Append(within(t), "s", eventstore.Any, one("y")); err == nil || errors.As(err, &unknown) {
		t.Errorf("without a connection nothing is in doubt: %v", err)
	}
	wire.noWayBack.Store(false)
	if version, err := s.Append(within(t), "s", eventstore.Exact(3), events...); err != nil || version != 4 {
		t.Errorf("again: version %d, %v", version, err)
	}
}
