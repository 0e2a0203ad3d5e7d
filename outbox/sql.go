package outbox

import (
	"context"
	"database/sql"
)

// SQLExecer is Execer for database/sql. *sql.Tx, *sql.Conn and *sql.DB have
// it; only with a transaction does an event share the fate of what it tells of.
type SQLExecer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// AppendSQL is [Append] for database/sql. See [Writer.AppendSQL].
func AppendSQL(ctx context.Context, tx SQLExecer, recs ...Record) error {
	return defaultWriter().AppendSQL(ctx, tx, recs...)
}

// AppendSQL is [Writer.Append] for database/sql, with the same statements. It
// hands over strings, bytes, times and integers only, which every driver for
// Postgres takes as they are: no arrays, and nothing that a driver would have
// to know a type for. A transaction whose statement failed can only be rolled
// back, as always in Postgres.
func (w *Writer) AppendSQL(ctx context.Context, tx SQLExecer, recs ...Record) error {
	return w.append(recs, func(statement string, args []any) error {
		_, err := tx.ExecContext(ctx, statement, args...)
		return err
	})
}
