package consumer_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/test/harness"
)

// inboxes are the two adapters, each with a handler that inserts the event's id
// into effects and then does what f says.
func inboxes(t *testing.T) (*pgxpool.Pool, map[string]func(name string, f func() error) consumer.Handler) {
	t.Helper()
	db := harness.Postgres(t).NewDatabase(t)
	pool, err := pgxpool.New(t.Context(), db.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for range 2 { // the second time changes nothing
		if err := consumer.CreateInbox(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), `CREATE TABLE effects (id text)`); err != nil {
		t.Fatal(err)
	}
	std := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { std.Close() })
	const insert = `INSERT INTO effects VALUES ($1)`
	return pool, map[string]func(string, func() error) consumer.Handler{
		"pgx": func(name string, f func() error) consumer.Handler {
			return consumer.Inbox(pool, name, func(ctx context.Context, tx pgx.Tx, ev consumer.Event) error {
				if _, err := tx.Exec(ctx, insert, ev.Identity()); err != nil {
					return err
				}
				return f()
			})
		},
		"database/sql": func(name string, f func() error) consumer.Handler {
			return consumer.InboxStd(std, name, func(ctx context.Context, tx *sql.Tx, ev consumer.Event) error {
				if _, err := tx.ExecContext(ctx, insert, ev.Identity()); err != nil {
					return err
				}
				return f()
			})
		},
	}
}

func effects(t *testing.T, pool *pgxpool.Pool, id string) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM effects WHERE id = $1`, id).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestInbox(t *testing.T) {
	pool, adapters := inboxes(t)
	for name, adapter := range adapters {
		t.Run(name, func(t *testing.T) {
			fail := errNotYet
			handle := adapter(name, func() error { return fail })
			ev := consumer.Event{ID: "id-" + name}
			if err := handle(t.Context(), ev); !errors.Is(err, errNotYet) {
				t.Fatalf("a failing handler: %v", err)
			}
			if n := effects(t, pool, ev.ID); n != 0 {
				t.Fatalf("%d effects of a handler that failed", n)
			}
			func() {
				defer func() { _ = recover() }()
				_ = adapter(name, func() error { panic("oh") })(t.Context(), ev)
			}()
			fail = nil
			if err := handle(t.Context(), ev); err != nil {
				t.Fatal(err)
			}
			if err := handle(t.Context(), ev); !errors.Is(err, consumer.ErrSkip) {
				t.Errorf("the second delivery: %v", err)
			}
			if n := effects(t, pool, ev.ID); n != 1 {
				t.Errorf("%d effects", n)
			}
			// Another consumer has its own.
			if err := adapter(name+" two", func() error { return nil })(t.Context(), ev); err != nil {
				t.Error(err)
			}
			// A record without an id is told by its place.
			foreign := consumer.Event{Topic: "t-" + name, Partition: 3, Offset: 9}
			if err := handle(t.Context(), foreign); err != nil {
				t.Error(err)
			}
			if err := handle(t.Context(), foreign); !errors.Is(err, consumer.ErrSkip) {
				t.Errorf("the second delivery: %v", err)
			}
		})
	}
}

// Two sources may have the same ids, if the key says which one it is.
func TestInboxKey(t *testing.T) {
	pool, _ := inboxes(t)
	std := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { std.Close() })
	key := consumer.InboxKey(func(ev consumer.Event) string { return ev.Position.Source + " " + ev.ID })
	for name, handle := range map[string]consumer.Handler{
		"pgx":          consumer.Inbox(pool, "keyed", func(context.Context, pgx.Tx, consumer.Event) error { return nil }, key),
		"database/sql": consumer.InboxStd(std, "keyed std", func(context.Context, *sql.Tx, consumer.Event) error { return nil }, key),
	} {
		for i, c := range []struct {
			source string
			want   error
		}{{"a/s", nil}, {"b/s", nil}, {"a/s", consumer.ErrSkip}} {
			ev := consumer.Event{ID: "1", Position: consumer.Position{Source: c.source}}
			if err := handle(t.Context(), ev); !errors.Is(err, c.want) {
				t.Errorf("%s: delivery %d: %v", name, i, err)
			}
		}
	}
}

// Two deliveries at the same time have one effect, whether the first commits or
// not.
func TestInboxConcurrently(t *testing.T) {
	pool, adapters := inboxes(t)
	for name, adapter := range adapters {
		for _, first := range []error{nil, errNotYet} {
			ev := consumer.Event{ID: "both-" + name}
			if first != nil {
				ev.ID += "-failing"
			}
			entered, release := make(chan struct{}), make(chan struct{})
			slow := adapter(name, func() error { close(entered); <-release; return first })
			quick := adapter(name, func() error { return nil })
			var wg sync.WaitGroup
			var second error
			wg.Go(func() {
				if err := slow(t.Context(), ev); !errors.Is(err, first) {
					t.Errorf("%v", err)
				}
			})
			<-entered
			wg.Go(func() { second = quick(t.Context(), ev) })
			awaitLock(t, pool)
			close(release)
			wg.Wait()
			if first == nil && !errors.Is(second, consumer.ErrSkip) || first != nil && second != nil {
				t.Errorf("first %v, second %v", first, second)
			}
			if n := effects(t, pool, ev.ID); n != 1 {
				t.Errorf("%d effects", n)
			}
		}
	}
}

// awaitLock returns when a session waits for another's transaction.
func awaitLock(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; n == 0; {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("nobody waits")
		}
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCleanInbox(t *testing.T) {
	pool, _ := inboxes(t)
	if _, err := pool.Exec(t.Context(), `INSERT INTO outbox.consumed
	    SELECT c, i::text, now() - make_interval(hours => i) FROM generate_series(1, 10) i, (VALUES ('a'), ('b')) v (c)`); err != nil {
		t.Fatal(err)
	}
	if _, err := consumer.CleanInbox(t.Context(), pool, "a", 0); !errors.Is(err, consumer.ErrRetention) {
		t.Errorf("%v", err)
	}
	n, err := consumer.CleanInbox(t.Context(), pool, "a", 4*time.Hour+time.Minute)
	if err != nil || n != 6 {
		t.Errorf("removed %d, %v", n, err)
	}
	var left int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox.consumed`).Scan(&left); err != nil || left != 14 {
		t.Errorf("%d left, %v", left, err)
	}
}
