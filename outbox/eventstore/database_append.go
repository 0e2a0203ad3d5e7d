package eventstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// appendAttempts bounds how often an Append starts over: after the unique key
// has refused (somebody who does not take the store's lock), or after a commit
// whose answer was lost.
const appendAttempts = 5

// Append appends in a transaction of its own.
//
// If the answer to the commit is lost it starts over: the lock is free only
// when the lost transaction has ended, and the ids tell how. If that cannot be
// found out either the error is an *OutcomeUnknown.
func (d *Database) Append(ctx context.Context, stream string, expected ExpectedVersion, events ...Event) (int64, error) {
	if err := check(stream, expected, events); err != nil {
		return 0, err
	}
	var doubt, last error
	for range appendAttempts {
		version, err := d.appendOnce(ctx, stream, expected, events)
		var lost *lostCommit
		var begin *noBegin
		var conflict *VersionConflict
		switch {
		case err == nil:
			return version, nil
		case errors.As(err, &lost):
			doubt = err
		case errors.As(err, &conflict) && conflict.Actual == UnknownVersion:
		case errors.As(err, &begin) && !refused(err): // a connection that had died in the pool
		case doubt != nil && !refused(err):
			return 0, &OutcomeUnknown{Stream: stream, Err: errors.Join(doubt, err)}
		default:
			return 0, err
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	if doubt != nil {
		return 0, &OutcomeUnknown{Stream: stream, Err: errors.Join(doubt, last)}
	}
	return 0, last
}

// lostCommit is a commit that Postgres did not answer.
type lostCommit struct{ err error }

func (e *lostCommit) Error() string { return fmt.Sprintf("commit: %v", e.err) }
func (e *lostCommit) Unwrap() error { return e.err }

// noBegin is a transaction that did not even begin.
type noBegin struct{ err error }

func (e *noBegin) Error() string { return fmt.Sprintf("begin: %v", e.err) }
func (e *noBegin) Unwrap() error { return e.err }

// refused tells an answer from the absence of one: what Append itself found,
// and what Postgres said.
func refused(err error) bool {
	var conflict *VersionConflict
	var duplicate *DuplicateEvent
	var said *pgconn.PgError
	return errors.As(err, &conflict) || errors.As(err, &duplicate) || errors.As(err, &said)
}

func (d *Database) appendOnce(ctx context.Context, stream string, expected ExpectedVersion, events []Event) (int64, error) {
	// Read committed whatever the default is: each statement has to see what
	// was committed while it waited for the lock.
	tx, err := d.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return 0, &noBegin{err}
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // after a commit it does nothing
	version, err := d.append(ctx, onPgx(tx, d.writer), stream, expected, events)
	if err != nil {
		return 0, err
	}
	err = tx.Commit(ctx)
	var said *pgconn.PgError
	switch {
	case err == nil:
		return version, nil
	case errors.As(err, &said), errors.Is(err, pgx.ErrTxCommitRollback):
		return 0, fmt.Errorf("commit: %w", err)
	}
	return 0, &lostCommit{err}
}

// AppendTx appends in the caller's transaction: the events are there, and are
// published, if and only if it commits. After an error other than
// *VersionConflict with a known version, *DuplicateEvent or *InvalidEvent the
// transaction has failed and can only be rolled back.
//
// Until the transaction ends, other appenders to the stream wait. A
// transaction that appends to several streams should do so in a fixed order,
// or Postgres may have to end a deadlock. Above read committed, Append sees
// the stream as the transaction's snapshot has it, and a stream that has moved
// on since is a *VersionConflict with UnknownVersion.
func (d *Database) AppendTx(ctx context.Context, tx pgx.Tx, stream string, expected ExpectedVersion, events ...Event) (int64, error) {
	if err := check(stream, expected, events); err != nil {
		return 0, err
	}
	return d.append(ctx, onPgx(tx, d.writer), stream, expected, events)
}

// AppendSQL is AppendTx for database/sql.
func (d *Database) AppendSQL(ctx context.Context, tx SQLTx, stream string, expected ExpectedVersion, events ...Event) (int64, error) {
	if err := check(stream, expected, events); err != nil {
		return 0, err
	}
	return d.append(ctx, onSQL(tx, d.writer), stream, expected, events)
}
