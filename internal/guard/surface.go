package guard

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
)

const (
	// writeInterval spaces what the relay writes of its counts. It is WAL too,
	// which moves the slot of an idle relay, which is a reason for a heartbeat:
	// so only what is more than a heartbeat is written at all.
	writeInterval = 10 * time.Second
	// rightsInterval is how often it is looked what the role may do: `init` may
	// have been run meanwhile.
	rightsInterval = time.Minute
)

// told is what a relay says of itself in outbox.relay_state, as far as a change
// of it is worth a row.
type told struct {
	state, code   string
	rows, letters uint64
}

// surface is what this role may do with the tables in schema outbox, and what
// it has written.
type surface struct {
	looked      time.Time
	read, write bool
	off         bool // the log knows

	state  string // of the last look
	since  time.Time
	last   told
	lastAt time.Time
}

// The right to use the schema comes first: without it the names in it cannot be
// asked for.
const rightsSQL = `SELECT
    coalesce(bool_or(c.relname = 'relay_pause' AND has_table_privilege(c.oid, 'SELECT')), false),
    coalesce(bool_or(c.relname = 'relay_state' AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')), false)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'outbox' AND c.relname IN ('relay_pause', 'relay_state') AND has_schema_privilege(n.oid, 'USAGE')`

const stateSQL = `INSERT INTO outbox.relay_state AS s (relay, slot, state, code, instance, version,
    checkpoint_seq, checkpoint_lsn, checkpoint_at, last_commit_lsn, last_commit_at, rows_total, dlq_total, since, updated_at)
  VALUES ($1, $2, $3, nullif($4, ''), $5, $6, $7, $8::text::pg_lsn, $9, $10::text::pg_lsn, $11, $12, $13, $14, clock_timestamp())
  ON CONFLICT (relay, slot) DO UPDATE SET state = excluded.state, code = excluded.code, instance = excluded.instance, version = excluded.version,
    checkpoint_seq = coalesce(excluded.checkpoint_seq, s.checkpoint_seq), checkpoint_lsn = coalesce(excluded.checkpoint_lsn, s.checkpoint_lsn),
    checkpoint_at = coalesce(excluded.checkpoint_at, s.checkpoint_at), last_commit_lsn = coalesce(excluded.last_commit_lsn, s.last_commit_lsn),
    last_commit_at = coalesce(excluded.last_commit_at, s.last_commit_at), rows_total = coalesce(excluded.rows_total, s.rows_total),
    dlq_total = coalesce(excluded.dlq_total, s.dlq_total), since = excluded.since, updated_at = excluded.updated_at`

// tend reads the switch and writes the state. Nothing of it can fail the look:
// a relay without the surface is a whole relay.
func (g *Guard) tend(ctx context.Context, conn *pgx.Conn, now time.Time, self Self) {
	s := &g.surface
	if self.State != s.state {
		s.state, s.since = self.State, now
	}
	if s.looked.IsZero() || now.Sub(s.looked) >= rightsInterval {
		if err := conn.QueryRow(ctx, rightsSQL).Scan(&s.read, &s.write); err != nil {
			return // the connection is in trouble: the next look says so
		}
		s.looked = now
		g.tellSurface()
	}
	if s.read {
		p, err := ReadPause(ctx, conn, g.cfg.Relay)
		if err != nil {
			g.surfaceFailed(err)
			return
		}
		g.pause.setStored(p)
	}
	if s.write && s.due(now, self) {
		if err := g.writeState(ctx, conn, self); err != nil {
			g.surfaceFailed(err)
			return
		}
		s.last, s.lastAt = tellable(self), now
	}
}

// tellSurface says once that there is none, and once that there is.
func (g *Guard) tellSurface() {
	s := &g.surface
	off := !s.read || !s.write
	if off == s.off {
		return
	}
	s.off = off
	if off {
		g.cfg.Log.Info().Str("code", fault.SQLSurfaceOff.ID).Str("why", fault.SQLSurfaceOff.Why).Str("hint", fault.SQLSurfaceOff.Fix).
			Bool("pause", s.read).Bool("state", s.write).Msg("the SQL surface is off")
		return
	}
	g.cfg.Log.Info().Msg("the SQL surface is on")
}

// surfaceFailed looks at the rights again before the next attempt.
func (g *Guard) surfaceFailed(err error) {
	g.surface.looked, g.surface.read, g.surface.write = time.Time{}, false, false
	g.cfg.Log.Debug().Err(err).Msg("SQL surface")
}

func tellable(self Self) told {
	t := told{state: self.State, code: self.Code}
	if self.Last != nil {
		t.rows, t.letters = self.Last.Rows, self.Last.Letters
	}
	return t
}

// due tells whether there is something to write, and whether it is for this
// replica to: one that stands by knows nothing of the one that leads.
func (s *surface) due(now time.Time, self Self) bool {
	if !self.Leading && !self.Halted {
		return false
	}
	t := tellable(self)
	return t.state != s.last.state || t.code != s.last.code || t != s.last && now.Sub(s.lastAt) >= writeInterval
}

func (g *Guard) writeState(ctx context.Context, conn *pgx.Conn, self Self) error {
	var seq, rows, letters *int64
	var at, commitAt *time.Time
	var lsn, commit *string
	if l := self.Last; l != nil {
		number := func(n uint64) *int64 { i := int64(n); return &i }
		seq, rows, letters = number(l.Seq), number(l.Rows), number(l.Letters)
		at, lsn = &l.At, &l.LSN
		if !l.CommitAt.IsZero() {
			commitAt, commit = &l.CommitAt, &l.CommitLSN
		}
	}
	_, err := conn.Exec(ctx, stateSQL, g.cfg.Relay, g.cfg.Source.Slot, self.State, self.Code, g.cfg.Instance, g.cfg.Version,
		seq, lsn, at, commit, commitAt, rows, letters, g.surface.since)
	if err != nil {
		return surfaceFault(err, "write outbox.relay_state")
	}
	return nil
}
