package cleanup

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// Horizon says: what transactions below XID have committed lies below LSN.
type Horizon struct {
	XID uint64 // with its epoch
	LSN pglogrepl.LSN
}

// horizon takes one. The order of the two statements is the proof.
func (c *Cleaner) horizon(ctx context.Context) (Horizon, error) {
	var xid, lsn string
	if err := c.conn.QueryRow(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot())::text`).Scan(&xid); err != nil {
		return Horizon{}, classify(err, "read snapshot")
	}
	if err := c.conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&lsn); err != nil {
		return Horizon{}, classify(err, "read position of the WAL")
	}
	h := Horizon{}
	var err error
	if h.XID, err = strconv.ParseUint(xid, 10, 64); err == nil {
		h.LSN, err = pglogrepl.ParseLSN(lsn)
	}
	if err != nil {
		return Horizon{}, fault.Wrap(err, fault.Unclassified, "read horizon")
	}
	return h, nil
}

// below is the SQL that holds for rows below the horizon. Both ages are taken
// at the same moment, so it compares the ids. It does not hold for what cannot
// be compared.
func (h Horizon) below() string {
	return fmt.Sprintf("age(xmin) > age('%d'::xid)", uint32(h.XID))
}

// settled tells whether all below the horizon is in Kafka, and how far that is.
func (c *Cleaner) settled(ctx context.Context, h Horizon) (bool, pglogrepl.LSN, error) {
	s, err := replication.Inspect(ctx, c.conn, c.cfg.Slot)
	switch {
	case errors.Is(err, replication.ErrNoSlot):
		return false, 0, fault.New(fault.CleanupBlind, "slot %s does not exist", c.cfg.Slot)
	case err != nil:
		return false, 0, classify(err, "inspect slot "+c.cfg.Slot)
	case s.Lost():
		return false, 0, fault.New(fault.CleanupBlind, "slot %s is lost", c.cfg.Slot)
	}
	at := s.ConfirmedLSN
	if at >= h.LSN && c.cfg.Covered != nil {
		// Whoever moves a slot by hand confirms what nobody has.
		kafka, err := c.cfg.Covered(ctx)
		if err != nil {
			return false, 0, err
		}
		at = min(at, kafka)
	}
	return at >= h.LSN, at, nil
}

// look takes a horizon for later.
func (c *Cleaner) look(ctx context.Context) error {
	h, err := c.horizon(ctx)
	if err == nil {
		c.pending = append(c.pending, h)
	}
	return err
}

// await waits until one of the horizons is settled, and returns the newest that
// is. Those of earlier runs count too, so that a relay that is always a little
// behind is no hindrance.
func (c *Cleaner) await(ctx context.Context, patience time.Duration) (Horizon, error) {
	for since := time.Now(); ; {
		var at pglogrepl.LSN
		for i := len(c.pending) - 1; i >= 0; i-- {
			ok, stands, err := c.settled(ctx, c.pending[i])
			if err != nil {
				return Horizon{}, err
			}
			if ok {
				h := c.pending[i]
				c.pending = c.pending[i:] // it holds for ever, and may be all there is next time
				return h, nil
			}
			at = stands
		}
		if time.Since(since) >= patience {
			// The oldest are the likeliest to be reached.
			c.pending = c.pending[:min(len(c.pending), mostPending)]
			return Horizon{}, fault.New(fault.CleanupBehind, "the relay stands at %s, and the rows to remove may reach up to %s", at, c.pending[0].LSN)
		}
		select {
		case <-time.After(pollEach):
		case <-ctx.Done():
			return Horizon{}, context.Cause(ctx)
		}
	}
}

const (
	pollEach    = 250 * time.Millisecond
	mostPending = 100
)

// classify gives an error of Postgres its code.
func classify(err error, what string) error {
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "42501":
			return fault.Wrap(err, fault.NoRight, "%s", what).WithFix("use the owner of the table: OUTBOX_ADMIN_URL=postgres://...")
		case "42P01":
			return fault.Wrap(err, fault.TableMissing, "%s", what)
		}
	}
	return fault.Wrap(err, fault.PostgresLost, "%s", what)
}

// busy tells that somebody else had a lock for too long.
func busy(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "40P01")
}

// inTx runs statements in one transaction that does not wait for locks long.
func (c *Cleaner) inTx(ctx context.Context, do func(pgx.Tx) error) error {
	tx, err := c.conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", lockPatience.Milliseconds())); err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// lockPatience is how long a lock is waited for. While a lock on the whole
// table is waited for, writers wait behind it.
const lockPatience = 500 * time.Millisecond
