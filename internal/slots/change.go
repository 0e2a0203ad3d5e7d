package slots

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// Change is something that can be done to a slot, and what it costs. It is made
// by one of the Plan functions and carried out by Do.
type Change struct {
	Verb string `json:"verb"` // create, advance, drop
	Slot string `json:"slot"`
	SQL  string `json:"sql"`
	// Price is the range of events that the relay will not send after the
	// change, C:F as `serve --accept-gap` takes it. Empty: none.
	Price string `json:"gap,omitempty"`
	// Facts are what was found, in words.
	Facts []string `json:"facts"`
	// Done is the position of the slot after the change.
	Done string `json:"lsn,omitempty"`
	Next string `json:"next,omitempty"`
}

// Check refuses a change whose slot or price the caller has not repeated.
func (c *Change) Check(name, price string) error {
	price = strings.ToUpper(strings.TrimSpace(price))
	if c.Price != "" && price != strings.ToUpper(c.Price) {
		told := "the range was not given"
		if price != "" {
			told = "the range given is " + price
		}
		return fault.New(fault.SlotWouldLose, "%s slot %s: %s", c.Verb, c.Slot, told).
			WithWhy("%s", strings.Join(c.Facts, "; ")).
			WithFix("if the loss is meant: %s --yes %s --accept-gap %s", c.command(), c.Slot, c.Price)
	}
	if name != c.Slot {
		told := "its name was not given"
		if name != "" {
			told = "the name given is " + name
		}
		return fault.New(fault.SlotUnconfirmed, "%s slot %s: %s", c.Verb, c.Slot, told).WithFix("repeat the command with --yes %s", c.Slot)
	}
	return nil
}

// command is how the change is asked for.
func (c *Change) command() string {
	if c.Verb == "create" {
		return "outbox-relay slot create"
	}
	return "outbox-relay slot " + c.Verb + " " + c.Slot
}

// PlanDrop says what dropping a slot costs.
func (d *Desk) PlanDrop(ctx context.Context, name string) (Change, error) {
	s, stand, err := d.free(ctx, name)
	if err != nil {
		return Change{}, err
	}
	c := Change{Verb: "drop", Slot: name, SQL: DropSQL(name, s.ConfirmedLSN), Facts: []string{}}
	if s.Lost() {
		c.fact("Postgres has given the slot up already, so dropping it loses nothing more")
		c.Next = fault.SlotLost.Fix
		return c, nil
	}
	rows := d.undelivered(ctx, name, stand)
	c.fact("the slot stands at %s", s.ConfirmedLSN)
	c.standing(stand)
	c.fact("%s", rows)
	if stand.Known && stand.Checkpoint == nil && rows.Known && rows.Rows == 0 {
		return c, nil
	}
	c.Price = stand.Word() + ":" + s.ConfirmedLSN.String()
	if stand.Checkpoint != nil {
		c.fact("a relay with this checkpoint halts without its slot (%s)", fault.SlotMissing.ID)
		c.Next = "docs/errors.md#" + strings.ToLower(fault.SlotMissing.ID) + " says how the relay gets a new one"
	}
	return c, nil
}

// PlanAdvance says what moving a slot costs. The target is an LSN, or
// "checkpoint" for how far Kafka says that the relay has come.
func (d *Desk) PlanAdvance(ctx context.Context, name, to string) (Change, error) {
	s, stand, err := d.free(ctx, name)
	if err != nil {
		return Change{}, err
	}
	if s.Lost() {
		return Change{}, fault.New(fault.SlotLost, "slot %s", name)
	}
	var target pglogrepl.LSN
	switch {
	case to == "checkpoint" && stand.Checkpoint != nil:
		target = stand.Checkpoint.Pos.EndLSN
	case to == "checkpoint":
		why := stand.Why
		if stand.Known {
			why = "there is none"
		}
		return Change{}, fault.New(fault.SlotTarget, "advance slot %s to its checkpoint", name).WithWhy("the checkpoint is not known: %s", why).WithFix("name a position: --to <LSN>")
	default:
		if target, err = pglogrepl.ParseLSN(to); err != nil {
			return Change{}, fault.New(fault.SlotTarget, "--to %q", to).WithWhy("it is an LSN such as 0/1952258, or checkpoint").WithFix("--to checkpoint")
		}
	}
	switch {
	case target < s.ConfirmedLSN:
		return Change{}, fault.New(fault.SlotTarget, "slot %s stands at %s, behind %s", name, s.ConfirmedLSN, target).WithWhy("a slot cannot go back")
	case target > s.CurrentLSN:
		return Change{}, fault.New(fault.SlotTarget, "the WAL ends at %s, before %s", s.CurrentLSN, target).WithWhy("nothing is there yet")
	}
	c := Change{Verb: "advance", Slot: name, SQL: AdvanceSQL(name, target.String(), s.ConfirmedLSN), Facts: []string{}}
	c.fact("the slot stands at %s and would go to %s", s.ConfirmedLSN, target)
	c.standing(stand)
	// What the slot has confirmed is in Kafka, whatever is known of Kafka.
	known, from := s.ConfirmedLSN, s.ConfirmedLSN.String()
	if stand.Checkpoint != nil {
		known, from = max(known, stand.Checkpoint.Pos.EndLSN), stand.Checkpoint.Pos.EndLSN.String()
	}
	if target > known {
		c.Price = from + ":" + target.String()
		c.fact("what committed in between is not sent")
		if stand.Checkpoint != nil {
			c.Next = "outbox-relay serve --accept-gap " + c.Price
		}
	} else {
		c.fact("all of that is in Kafka")
		c.Next = "outbox-relay serve"
	}
	return c, nil
}

// PlanCreate says what making the relay's slot costs. One without a checkpoint
// is refused: serve would halt on it, and would have to.
func (d *Desk) PlanCreate(ctx context.Context, sql string) (Change, error) {
	_, err := replication.Inspect(ctx, d.Conn, d.Slot)
	switch {
	case err == nil:
		return Change{}, fault.New(fault.SlotExists, "slot %s", d.Slot).WithFix("outbox-relay slot inspect")
	case !errors.Is(err, replication.ErrNoSlot):
		return Change{}, classify(err, "inspect slot "+d.Slot)
	}
	stand := d.standing(ctx, d.Slot)
	if stand.Known && stand.Checkpoint == nil {
		return Change{}, fault.New(fault.SlotAlone, "create slot %s", d.Slot)
	}
	c := Change{Verb: "create", Slot: d.Slot, SQL: sql, Price: stand.Word() + ":new", Facts: []string{}}
	c.standing(stand)
	c.fact("what committed after that and before the new slot is not sent")
	if !stand.Known {
		c.fact("if there is no checkpoint, serve halts on the new slot")
	}
	return c, nil
}

// Do carries a change out.
func (d *Desk) Do(ctx context.Context, c *Change) error {
	var text string
	err := d.Conn.QueryRow(ctx, c.SQL).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.New(fault.SlotChanged, "%s slot %s", c.Verb, c.Slot)
	}
	if err != nil {
		return classify(err, c.Verb+" slot "+c.Slot)
	}
	c.Done = text
	if from, _, _ := strings.Cut(c.Price, ":"); c.Verb == "create" && from != "unknown" {
		c.Next = "outbox-relay serve --accept-gap " + from + ":" + text
	}
	return nil
}

// free reads a slot that may be changed: of this database, for our plugin, and
// held by nobody.
func (d *Desk) free(ctx context.Context, name string) (replication.Slot, Standing, error) {
	s, err := d.read(ctx, name)
	switch {
	case err != nil:
		return s, Standing{}, err
	case s.Plugin != "pgoutput" || s.Database != d.Identity.Database:
		return s, Standing{}, fault.New(fault.SlotShape, "slot %s is of plugin %q and database %q", name, s.Plugin, s.Database).
			WithWhy("only pgoutput slots of database %s can be a relay's", d.Identity.Database).WithFix("if it is not needed, drop it by hand: %s", DropSQL(name, 0))
	}
	if err := d.held(ctx, s); err != nil {
		return s, Standing{}, err
	}
	return s, d.standing(ctx, name), nil
}

func (c *Change) fact(format string, args ...any) {
	c.Facts = append(c.Facts, fmt.Sprintf(format, args...))
}

func (c *Change) standing(s Standing) {
	switch {
	case !s.Known:
		c.fact("how far the relay has come is not known: %s", s.Why)
	case s.Checkpoint == nil:
		c.fact("there is no checkpoint")
	default:
		c.fact("the checkpoint says that all up to %s is in Kafka", s.Checkpoint.Pos.EndLSN)
	}
}
