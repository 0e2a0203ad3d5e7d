// Package gate waits until everything that committed up to a position is in
// Kafka.
//
// Its job: the same wait for a command and for HTTP, with a limit, told how far
// it is. Deploy gates, switchovers and tests stand behind it.
//
// Invariant: it opens when the relay has confirmed the position, which it does
// for nothing that a reader of Kafka has not seen. Where Kafka can be asked as
// well and says less, somebody has moved the slot by hand, and the gate stays
// shut.
//
// It leaves to others the waiting itself (outbox.Wait), which needs SQL alone.
package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// Gate is the wait for one relay. Its methods may be called by any goroutine.
type Gate struct {
	Slot string
	// Connect opens a connection to the primary, which the caller of it closes.
	Connect func(context.Context) (*pgx.Conn, error)
	// Covered asks Kafka up to where it has all events; nil: it is not asked.
	Covered func(context.Context) (pglogrepl.LSN, error)
}

// Answer is how a wait ended; its keys are stable.
type Answer struct {
	Reached   bool    `json:"reached"`
	LSN       string  `json:"lsn"` // that was waited for
	Confirmed string  `json:"confirmed_lsn"`
	LeftBytes int64   `json:"left_bytes"`
	Active    bool    `json:"slot_active"`
	Seconds   float64 `json:"waited_seconds"`
	// Kafka says why Kafka could not be asked too; empty: it was, or was not to be.
	Kafka string `json:"kafka,omitempty"`
}

// lookTime bounds connecting and one look.
const lookTime = 5 * time.Second

// Now stands for the end of the WAL at the start of the wait.
const Now = "now"

// Wait waits at most the given time. The answer is filled as far as it came, also
// with an error.
func (g *Gate) Wait(ctx context.Context, lsn string, limit time.Duration, report func(Answer)) (Answer, error) {
	began := time.Now()
	a := Answer{LSN: lsn}
	take := func(p outbox.Progress) {
		if p.Confirmed == "" {
			return
		}
		a.Confirmed, a.LeftBytes, a.Active, a.Seconds = p.Confirmed, p.Left, p.Active, time.Since(began).Seconds()
	}
	// However short the limit is, one look says how far it is.
	first, stop := context.WithTimeout(ctx, limit+lookTime)
	defer stop()
	conn, err := g.Connect(first)
	if err != nil {
		return a, err
	}
	defer func() {
		end, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		_ = conn.Close(end)
	}()
	if lsn == Now || lsn == "" {
		if a.LSN, err = outbox.Position(first, conn); err != nil {
			return a, fault.Wrap(err, fault.PostgresLost, "wait for slot %s", g.Slot)
		}
	}
	p, err := outbox.Passed(first, conn, g.Slot, a.LSN)
	take(p)
	timed, cancel := context.WithDeadline(ctx, began.Add(limit))
	defer cancel()
	if err == nil && p.Left > 0 {
		p, err = outbox.Wait(timed, conn, g.Slot, a.LSN, func(p outbox.Progress) {
			take(p)
			if report != nil {
				report(a)
			}
		})
		take(p)
	}
	if err != nil {
		return a, g.classify(ctx, timed, err, a, limit)
	}
	a.Reached = true
	if g.Covered == nil {
		return a, nil
	}
	return g.compare(ctx, a)
}

// compare asks Kafka, whose word counts more than the slot's.
func (g *Gate) compare(ctx context.Context, a Answer) (Answer, error) {
	at, err := g.Covered(ctx)
	if err != nil {
		a.Kafka = err.Error()
		return a, nil
	}
	want, err := pglogrepl.ParseLSN(a.LSN)
	if err == nil && at < want {
		a.Reached = false
		return a, fault.New(fault.Gap, "slot %s has confirmed %s, and the checkpoint is at %s", g.Slot, a.Confirmed, at)
	}
	return a, nil
}

func (g *Gate) classify(ctx, timed context.Context, err error, a Answer, limit time.Duration) error {
	switch {
	case errors.Is(err, outbox.ErrNoSlot):
		return fault.Wrap(err, fault.SlotMissing, "wait for %s", a.LSN).WithWhy("without its slot the relay comes to no position").
			WithFix("outbox-relay status")
	case errors.Is(err, outbox.ErrBadPosition):
		return fault.Wrap(err, fault.WaitTarget, "wait for %s", a.LSN)
	case ctx.Err() != nil:
		return fmt.Errorf("wait for %s: %w", a.LSN, context.Cause(ctx))
	case timed.Err() != nil:
		f := fault.New(fault.WaitTimeout, "after %s slot %s stands at %s, %d bytes of WAL before %s", limit, g.Slot, a.Confirmed, a.LeftBytes, a.LSN)
		if !a.Active {
			f = f.WithWhy("nobody reads the slot").WithFix("outbox-relay serve")
		}
		return f
	}
	return fault.Wrap(err, fault.PostgresLost, "wait for %s", a.LSN)
}
