package recovery

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
)

// Rows that a policy hides would be taken for none, so a policy is an error. The
// time-outs of a role are for applications.
const settings = `SET LOCAL statement_timeout = 0; SET LOCAL row_security = off; SET LOCAL idle_in_transaction_session_timeout = 0`

// snapshot is a moment of the table, held for as long as it is read.
type snapshot struct {
	srv *replication.Server // of its own
	tx  pgx.Tx
	at  pglogrepl.LSN // what is visible was committed below
	// exact: the slot begins at this moment, so nothing that is visible comes
	// from it as well.
	exact bool
}

// openSnapshot takes a snapshot: that of a slot that was just made, or the present one.
func openSnapshot(ctx context.Context, cfg replication.Config, made *replication.Made) (*snapshot, error) {
	srv, err := replication.Connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &snapshot{srv: srv}
	if err := s.begin(ctx, made); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *snapshot) begin(ctx context.Context, made *replication.Made) error {
	var err error
	if s.tx, err = s.srv.Conn().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}); err != nil {
		return fault.Wrap(err, fault.PostgresLost, "begin")
	}
	if made != nil {
		if _, err := s.tx.Exec(ctx, "SET TRANSACTION SNAPSHOT '"+strings.ReplaceAll(made.Snapshot, "'", "''")+"'"); err != nil {
			return fault.Wrap(err, fault.PostgresLost, "take over the snapshot of the slot")
		}
		s.at, s.exact = made.At, true
	}
	if _, err := s.tx.Exec(ctx, settings); err != nil {
		return fault.Wrap(err, fault.PostgresLost, "prepare the session")
	}
	if made != nil {
		return nil
	}
	// The first statement takes the snapshot before it is carried out.
	var text string
	if err := s.tx.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&text); err != nil {
		return fault.Wrap(err, fault.PostgresLost, "read the position of the WAL")
	}
	if s.at, err = pglogrepl.ParseLSN(text); err != nil {
		return fault.Wrap(err, fault.WALDecode, "read the position of the WAL")
	}
	return nil
}

func (s *snapshot) alive() bool { return s != nil && !s.srv.Conn().IsClosed() }

func (s *snapshot) close() {
	if s != nil {
		s.srv.Close()
	}
}

// order numbers the rows as nearly as they were committed as the table tells,
// and leaves no two in an order that could be another one the next time.
func order(s *Survey, columns outbox.Columns) string {
	var by []string
	if s.CommitTimes {
		by = append(by, "pg_xact_commit_timestamp(xmin) NULLS FIRST")
	}
	if slices.ContainsFunc(s.Shape, func(c outbox.Column) bool { return c.Name == columns.CreatedAt }) {
		by = append(by, pgx.Identifier{columns.CreatedAt}.Sanitize()+" NULLS FIRST")
	}
	by = append(by, "age(xmin) DESC", "cmin::text::bigint", "tableoid", "ctid")
	return "ORDER BY " + strings.Join(by, ", ")
}
