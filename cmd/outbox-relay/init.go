package main

import (
	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/provision"
)

type initCmd struct {
	DryRun      bool   `help:"Only print the SQL and the topics, or what a take-over would begin with."`
	Partitioned bool   `help:"Make a table that is partitioned by time."`
	TakeOver    string `placeholder:"SLOT" help:"Begin where another reader of this slot stopped, such as Debezium, instead of making a slot. Needs --at, or --dry-run."`
	At          string `placeholder:"LSN" help:"Position of that slot, as --dry-run prints it."`
}

func (c *initCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase, config.NeedKafka)
	if err != nil {
		return err
	}
	if c.TakeOver == "" {
		if c.At != "" {
			return fault.New(fault.CommandLine, "--at without --take-over").WithFix("outbox-relay init --take-over <slot> --at %s", c.At)
		}
		return initialise(a.ctx, cfg, c.DryRun, c.Partitioned, a.stdout, a.format, log)
	}
	if c.Partitioned {
		return fault.New(fault.CommandLine, "--partitioned with --take-over").WithWhy("a take-over makes no table").WithFix("outbox-relay init --take-over %s --dry-run", c.TakeOver)
	}
	want := provision.TakeOver{Slot: c.TakeOver}
	if c.At != "" {
		if want.At, err = pglogrepl.ParseLSN(c.At); err != nil || want.At.String() != c.At {
			return fault.New(fault.CommandLine, "--at %q is no position", c.At).WithFix("outbox-relay init --take-over %s --dry-run prints it", c.TakeOver)
		}
	}
	if cfg.Outbox.Slot != want.Slot {
		return fault.New(fault.ConfigInvalid, "OUTBOX_SLOT is %q, and slot %q is to be taken over", cfg.Outbox.Slot, want.Slot).
			WithWhy("the relay goes on reading the slot that it takes over, under its name").WithFix("OUTBOX_SLOT=%s", want.Slot)
	}
	return takeOver(a.ctx, cfg, want, c.DryRun, a.stdout, a.format, log)
}
