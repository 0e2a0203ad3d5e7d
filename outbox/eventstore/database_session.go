package eventstore

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/outbox"
)

// SQLTx is what AppendSQL asks of a transaction. *sql.Tx and *sql.Conn have
// it; on a *sql.Conn the caller has begun a transaction by hand.
type SQLTx interface {
	outbox.SQLExecer
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// session is the caller's transaction for whichever driver there is. Arguments
// are texts, bytes and integers only, so that each driver takes them.
type session struct {
	// each calls row for every row of the answer.
	each func(ctx context.Context, query string, args []any, row func(scan func(...any) error) error) error
	// publish writes outbox rows.
	publish func(ctx context.Context, rows []outbox.Record) error
}

func onPgx(tx pgx.Tx, w *outbox.Writer) session {
	return session{
		each: func(ctx context.Context, query string, args []any, row func(func(...any) error) error) error {
			rows, err := tx.Query(ctx, query, args...)
			if err != nil {
				return err
			}
			defer rows.Close()
			return everyRow(rows, row)
		},
		publish: func(ctx context.Context, rows []outbox.Record) error { return w.Append(ctx, tx, rows...) },
	}
}

func onSQL(tx SQLTx, w *outbox.Writer) session {
	return session{
		each: func(ctx context.Context, query string, args []any, row func(func(...any) error) error) error {
			rows, err := tx.QueryContext(ctx, query, args...)
			if err != nil {
				return err
			}
			defer rows.Close()
			return everyRow(rows, row)
		},
		publish: func(ctx context.Context, rows []outbox.Record) error { return w.AppendSQL(ctx, tx, rows...) },
	}
}

// everyRow walks over an answer, which both drivers show in the same form.
func everyRow(rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
}, row func(scan func(...any) error) error,
) error {
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
