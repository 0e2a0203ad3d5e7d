package main

import (
	"time"

	"github.com/holdwall/outbox-relay/internal/config"
)

type slotCmd struct {
	Inspect slotInspectCmd `cmd:"" help:"Show a slot, what follows if nothing is done, and the SQL to see the same."`
	List    slotListCmd    `cmd:"" help:"Show every logical slot of the server."`
	Create  slotCreateCmd  `cmd:"" help:"Make a new slot for a relay that has lost its own, and accept the gap."`
	Advance slotAdvanceCmd `cmd:"" help:"Move a slot forward."`
	Drop    slotDropCmd    `cmd:"" help:"Drop a slot that is not needed any more."`
}

type slotInspectCmd struct {
	Slot     string        `arg:"" optional:"" help:"Slot; default: OUTBOX_SLOT."`
	Watch    time.Duration `default:"1s" placeholder:"1s" help:"How long to watch the WAL grow."`
	PrintSQL bool          `name:"print-sql" help:"Only print the SQL."`
}

func (c *slotInspectCmd) Run(a *app) error {
	return a.onSlots(func(s *slotting) error { return s.inspect(c) }, config.NeedDatabase)
}

type slotListCmd struct {
	PrintSQL bool `name:"print-sql" help:"Only print the SQL."`
}

func (c *slotListCmd) Run(a *app) error {
	return a.onSlots(func(s *slotting) error { return s.list(c) }, config.NeedDatabase)
}

// slotMeant is how somebody says that a change is meant.
type slotMeant struct {
	Yes       string `placeholder:"SLOT" help:"Repeat the slot's name, instead of being asked for it."`
	AcceptGap string `placeholder:"FROM:TO" help:"Repeat the range of events that the change would lose, as the refusal prints it."`
	PrintSQL  bool   `name:"print-sql" help:"Only print the SQL."`
}

type slotCreateCmd struct {
	slotMeant `embed:""`
}

func (c *slotCreateCmd) Run(a *app) error {
	return a.onSlots(func(s *slotting) error { return s.create(c) }, config.NeedDatabase)
}

type slotAdvanceCmd struct {
	Slot      string `arg:"" optional:"" help:"Slot; default: OUTBOX_SLOT."`
	To        string `default:"checkpoint" placeholder:"LSN" help:"Position, or checkpoint: how far Kafka has all events."`
	slotMeant `embed:""`
}

func (c *slotAdvanceCmd) Run(a *app) error {
	return a.onSlots(func(s *slotting) error { return s.advance(c) }, config.NeedDatabase)
}

type slotDropCmd struct {
	Slot      string `arg:"" optional:"" help:"Slot; default: OUTBOX_SLOT."`
	slotMeant `embed:""`
}

func (c *slotDropCmd) Run(a *app) error {
	return a.onSlots(func(s *slotting) error { return s.drop(c) }, config.NeedDatabase)
}
