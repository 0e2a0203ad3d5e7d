package consumer

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// inboxSQL creates the table; it may run any number of times.
//
//go:embed inbox.sql
var inboxSQL string

// InboxSQL returns the statements that create outbox.consumed, for whoever
// keeps migrations. They may run any number of times; those who run them at the
// same time wait for each other.
func InboxSQL() string { return inboxSQL }

const (
	inboxInsert = `INSERT INTO outbox.consumed (consumer, id) VALUES ($1, $2) ON CONFLICT DO NOTHING`

	// inboxClean deletes in portions, so that no deletion holds many locks or
	// takes long to roll back.
	inboxClean = `DELETE FROM outbox.consumed WHERE ctid = ANY (ARRAY(
	    SELECT ctid FROM outbox.consumed WHERE consumer = $1 AND at < now() - make_interval(secs => $2) LIMIT $3))`

	cleanPortion = 10_000

	rollbackTimeout = 5 * time.Second
)

// Beginner begins a transaction: *pgxpool.Pool and *pgx.Conn do.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Execer runs a statement: *pgxpool.Pool, *pgx.Conn and pgx.Tx do.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// CreateInbox creates outbox.consumed if it does not exist.
func CreateInbox(ctx context.Context, db Execer) error {
	if _, err := db.Exec(ctx, inboxSQL); err != nil {
		return fmt.Errorf("create the inbox table: %w", err)
	}
	return nil
}

// InboxOption changes what [Inbox] and [InboxStd] do.
type InboxOption func(*inbox)

type inbox struct{ key func(Event) string }

// InboxKey notes what key returns, instead of [Event.Identity]. It has to be the
// same for each delivery of an event and different for any two events; with
// ev.Position.Source in it, renaming a slot makes old events new.
func InboxKey(key func(Event) string) InboxOption {
	return func(i *inbox) { i.key = key }
}

func inboxOf(opts []InboxOption) inbox {
	i := inbox{key: func(ev Event) string { return ev.Identity() }}
	for _, o := range opts {
		o(&i)
	}
	return i
}

// Inbox returns a handler that calls f in a transaction which also notes the
// event's identity under the consumer's name. An event that is noted already is
// skipped. So the effects of f in that transaction happen exactly once per
// event, whatever Kafka delivers twice.
//
// A second delivery that meets the first in the middle waits for it to end.
// Identities are kept until [CleanInbox] removes them, which must not be sooner
// than an event can come again.
//
// The identity is the event's ID and nothing else, so that an event that comes
// again under the name of a new slot is known. It must therefore be unique over
// all sources that the consumer reads: of two tables with serial ids in one
// topic, the second's events would be skipped. Give each its own consumer name,
// or [InboxKey].
func Inbox(db Beginner, consumer string, f func(ctx context.Context, tx pgx.Tx, ev Event) error, opts ...InboxOption) Handler {
	set := inboxOf(opts)
	return func(ctx context.Context, ev Event) (err error) {
		tx, err := db.Begin(ctx)
		if err != nil {
			return fmt.Errorf("begin the event's transaction: %w", err)
		}
		defer func() {
			// Also when f panics. ctx may have ended; the server must be told.
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
			defer cancel()
			_ = tx.Rollback(end) // nothing after a commit
		}()
		tag, err := tx.Exec(ctx, inboxInsert, consumer, set.key(ev))
		switch {
		case err != nil:
			return fmt.Errorf("note the event: %w", err)
		case tag.RowsAffected() == 0:
			return ErrSkip
		}
		if err := f(ctx, tx, ev); err != nil {
			return err
		}
		// An error here may hide a commit. The next attempt finds out.
		if err := tx.Commit(ctx); err != nil {
			return fmt.Errorf("commit the event's transaction: %w", err)
		}
		return nil
	}
}

// InboxStd is [Inbox] for database/sql, with any Postgres driver.
func InboxStd(db *sql.DB, consumer string, f func(ctx context.Context, tx *sql.Tx, ev Event) error, opts ...InboxOption) Handler {
	set := inboxOf(opts)
	return func(ctx context.Context, ev Event) (err error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("begin the event's transaction: %w", err)
		}
		defer func() { _ = tx.Rollback() }() // nothing after a commit
		noted, err := tx.ExecContext(ctx, inboxInsert, consumer, set.key(ev))
		if err != nil {
			return fmt.Errorf("note the event: %w", err)
		}
		switch n, err := noted.RowsAffected(); {
		case err != nil:
			return fmt.Errorf("note the event: %w", err)
		case n == 0:
			return ErrSkip
		}
		if err := f(ctx, tx, ev); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return fmt.Errorf("commit the event's transaction: %w", err)
		}
		return nil
	}
}

// ErrRetention is a retention that would forget what may still come again.
var ErrRetention = errors.New("the retention must be positive")

// CleanInbox removes the identities of a consumer that are older than the
// retention, and tells how many. Keep them longer than Kafka keeps the events,
// and longer than a dead letter may wait for its replay.
func CleanInbox(ctx context.Context, db Execer, consumer string, retention time.Duration) (int64, error) {
	if retention <= 0 {
		return 0, fmt.Errorf("clean the inbox: %w", ErrRetention)
	}
	var total int64
	for {
		tag, err := db.Exec(ctx, inboxClean, consumer, retention.Seconds(), cleanPortion)
		if err != nil {
			return total, fmt.Errorf("clean the inbox: %w", err)
		}
		total += tag.RowsAffected()
		if tag.RowsAffected() < cleanPortion {
			return total, nil
		}
	}
}
