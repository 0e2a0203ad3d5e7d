package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Querier runs one query that gives one row. *pgx.Conn and *pgxpool.Pool have
// it.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ErrNoSlot means that there is no slot that could be waited for: it does not
// exist, or Postgres has given it up.
var ErrNoSlot = errors.New("the relay's slot does not exist or is lost")

// ErrBadPosition means that a position is none, or lies behind the end of the
// WAL.
var ErrBadPosition = errors.New("not a position of this server's WAL")

// Progress is how far a relay is.
type Progress struct {
	Confirmed string // everything that committed below it is in Kafka
	Left      int64  // bytes of WAL up to the position that is waited for; 0: it is reached
	Active    bool   // somebody reads the slot
}

// Position returns where the WAL ends: what has committed before the call lies
// below it. Call it outside of the transaction that is to be waited for, after
// its commit.
func Position(ctx context.Context, conn Querier) (string, error) {
	var lsn string
	if err := conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&lsn); err != nil {
		return "", fmt.Errorf("read the position of the WAL: %w", err)
	}
	return lsn, nil
}

const progressSQL = `SELECT s.confirmed_flush_lsn::text, least(greatest($2::text::pg_lsn - s.confirmed_flush_lsn, 0), 9223372036854775807)::bigint, s.active,
       s.wal_status IS DISTINCT FROM 'lost' AND s.confirmed_flush_lsn IS NOT NULL, $2::text::pg_lsn - pg_current_wal_insert_lsn()
  FROM pg_replication_slots s WHERE s.slot_name = $1`

// Passed tells how far a relay is on its way to a position, as [Position]
// returns it, without waiting.
func Passed(ctx context.Context, conn Querier, slot, lsn string) (Progress, error) {
	p, _, err := passed(ctx, conn, slot, lsn)
	return p, err
}

// passed also tells whether the position is where the WAL ends.
func passed(ctx context.Context, conn Querier, slot, lsn string) (p Progress, end bool, err error) {
	if !positionForm(lsn) {
		return p, false, fmt.Errorf("%w: %q", ErrBadPosition, lsn)
	}
	var sound bool
	var confirmed *string
	var left *int64
	var beyond float64
	err = conn.QueryRow(ctx, progressSQL, slot, lsn).Scan(&confirmed, &left, &p.Active, &sound, &beyond)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && (!sound || confirmed == nil || left == nil):
		return p, false, fmt.Errorf("slot %s: %w", slot, ErrNoSlot)
	case err != nil:
		return p, false, fmt.Errorf("read slot %s: %w", slot, err)
	case beyond > 0:
		return p, false, fmt.Errorf("%w: %s lies behind its end", ErrBadPosition, lsn)
	}
	p.Confirmed, p.Left = *confirmed, *left
	return p, beyond == 0, nil
}

// positionForm tells whether a text has the form of an LSN.
func positionForm(s string) bool {
	digits, cut := 0, false
	for _, r := range s {
		switch {
		case r == '/' && !cut && digits > 0:
			digits, cut = 0, true
		case r >= '0' && r <= '9', r >= 'a' && r <= 'f', r >= 'A' && r <= 'F':
			digits++
		default:
			return false
		}
		if digits > 8 {
			return false
		}
	}
	return cut && digits > 0
}

const (
	waitFirst = 10 * time.Millisecond
	waitMost  = 500 * time.Millisecond
)

// Wait returns when everything that committed below a position is in Kafka: the
// relay of the slot has confirmed it, which it does only for what a reader of
// Kafka has seen. An empty lsn is the position at the time of the call. It ends
// with the error of ctx, which is how a limit is set; the last progress is
// returned with it. Each look is told to report, where one is given.
//
// A position that nothing is written behind is confirmed with the relay's next
// heartbeat (OUTBOX_HEARTBEAT_INTERVAL, 10 seconds). The connection is not kept
// busy, and must not be in a transaction that is itself waited for. An errors.Is
// of [ErrNoSlot] or [ErrBadPosition] says that waiting is no use.
func Wait(ctx context.Context, conn Querier, slot, lsn string, report ...func(Progress)) (Progress, error) {
	if lsn == "" {
		var err error
		if lsn, err = Position(ctx, conn); err != nil {
			return Progress{}, err
		}
	}
	var last Progress
	for pause, nudged := waitFirst, false; ; pause = min(2*pause, waitMost) {
		p, end, err := passed(ctx, conn, slot, lsn)
		switch {
		case err != nil && ctx.Err() != nil:
			return last, fmt.Errorf("wait for %s: %w", lsn, context.Cause(ctx))
		case err != nil:
			return last, err
		case p.Left == 0:
			return p, nil
		}
		last = p
		for _, tell := range report {
			tell(p)
		}
		if end && !nudged && pause == waitMost {
			// At the end of a page the position lies behind the header of the
			// next, which no reader comes to before something is written there.
			nudged = true
			var at string
			_ = conn.QueryRow(ctx, `SELECT pg_logical_emit_message(false, 'outbox.wait', '')::text`).Scan(&at) // it may not be allowed
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return last, fmt.Errorf("wait for %s: %w", lsn, context.Cause(ctx))
		}
	}
}
