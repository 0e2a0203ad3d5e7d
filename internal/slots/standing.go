package slots

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// Asking asks Kafka for the state of the relay's checkpoint. A topic that does
// not exist is a state without a checkpoint, and no error.
type Asking func(context.Context) (checkpoint.State, error)

// Standing is what is known about how far the relay has come.
type Standing struct {
	Known      bool                   // Kafka was asked, and speaks of this slot
	Checkpoint *checkpoint.Checkpoint // nil: there is none
	Why        string                 // why it is not known
}

// Word is the standing as the left end of a range.
func (s Standing) Word() string {
	switch {
	case !s.Known:
		return "unknown"
	case s.Checkpoint == nil:
		return "none"
	}
	return s.Checkpoint.Pos.EndLSN.String()
}

// standing asks how far the relay of a slot has come. Only the slot of this
// relay has a checkpoint that can be asked for.
func (d *Desk) standing(ctx context.Context, slot string) Standing {
	if slot != d.Slot {
		return Standing{Why: fmt.Sprintf("%s is not the slot of this relay, which is %s", slot, d.Slot)}
	}
	if d.Ask == nil {
		return Standing{Why: "KAFKA_BROKERS is not set"}
	}
	state, err := d.Ask(ctx)
	if err != nil {
		return Standing{Why: err.Error()}
	}
	if c := state.Last; c != nil {
		id := d.Identity
		switch {
		case c.Source.SystemID != id.SystemID || c.Source.Database != id.Database || c.Source.Slot != slot:
			return Standing{Why: fmt.Sprintf("the checkpoint is of slot %s of database %s of system %s", c.Source.Slot, c.Source.Database, c.Source.SystemID)}
		case c.Pos.Timeline != id.Timeline:
			return Standing{Why: fmt.Sprintf("the checkpoint is on timeline %d, the server on %d", c.Pos.Timeline, id.Timeline)}
		}
	}
	return Standing{Known: true, Checkpoint: state.Last}
}

// Undelivered is what a slot still has to send.
type Undelivered struct {
	Known bool
	Rows  int  // at least
	More  bool // that there may be more
}

// String says it in words.
func (u Undelivered) String() string {
	switch {
	case !u.Known:
		return "how many rows it would still send could not be counted in time"
	case u.Rows == 0:
		return "it has no rows left to send"
	case u.More:
		return fmt.Sprintf("it would still send at least %d rows", u.Rows)
	}
	return fmt.Sprintf("it would still send %d rows", u.Rows)
}

// peekPatience bounds the count: Postgres has to decode all of the WAL that
// the slot retains to find that there is nothing in it.
const peekPatience = 5 * time.Second

const (
	kindInsert = 'I'
	kindCommit = 'C'
)

// undelivered counts the first rows that the slot would send and that the
// checkpoint does not cover. Any failure means that it is not known.
func (d *Desk) undelivered(ctx context.Context, slot string, stand Standing) Undelivered {
	tx, err := d.Conn.Begin(ctx)
	if err != nil {
		return Undelivered{}
	}
	// A peek takes nothing; the transaction is for the time-out alone.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", peekPatience.Milliseconds())); err != nil {
		return Undelivered{}
	}
	rows, err := tx.Query(ctx, PeekSQL(slot, d.Publication))
	if err != nil {
		return Undelivered{}
	}
	var covered pglogrepl.LSN
	if stand.Checkpoint != nil {
		covered = stand.Checkpoint.Pos.EndLSN
	}
	u := Undelivered{Known: true}
	open, seen := 0, 0
	var text string
	var kind int
	_, err = pgx.ForEachRow(rows, []any{&text, &kind}, func() error {
		seen++
		switch kind {
		case kindInsert:
			open++
		case kindCommit:
			end, err := pglogrepl.ParseLSN(text)
			if err != nil {
				return err
			}
			if end > covered {
				u.Rows += open
			}
			open = 0
		}
		return nil
	})
	if err != nil {
		return Undelivered{}
	}
	u.More = seen >= 1000
	// A full page of transactions that are all covered says nothing of the next.
	u.Known = u.Rows > 0 || !u.More
	return u
}

// classify gives an error of Postgres its code.
func classify(err error, what string) error {
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "42501":
			return fault.Wrap(err, fault.NoRight, "%s", what).WithFix("use a role with REPLICATION: OUTBOX_ADMIN_URL=postgres://...")
		case "55006":
			return fault.Wrap(err, fault.SlotHeld, "%s", what)
		case "42704":
			return fault.Wrap(err, fault.SlotMissing, "%s", what).WithWhy("there is no slot of this name").WithFix("outbox-relay slot list")
		case "53400":
			return fault.Wrap(err, fault.SlotsExhausted, "%s", what)
		case "55000":
			return fault.Wrap(err, fault.SlotLost, "%s", what)
		}
	}
	return fault.Wrap(err, fault.PostgresLost, "%s", what)
}

// held refuses a slot that somebody streams from.
func (d *Desk) held(ctx context.Context, s replication.Slot) error {
	if !s.Active {
		return nil
	}
	return fault.New(fault.SlotHeld, "slot %s is held by %s", s.Name, replication.WhoHolds(ctx, d.Conn, s.ActivePID)).
		WithWhy("a slot that somebody streams from is not changed").
		WithFix("stop the relay first; if that session is none: SELECT pg_terminate_backend(%d)", s.ActivePID)
}
