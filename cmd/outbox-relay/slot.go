package main

import "github.com/holdwall/outbox-relay/internal/config"

type slotCmd struct {
	Inspect slotInspectCmd `cmd:"" help:"Show the relay's slot, and the SQL to see the same."`
	List    slotListCmd    `cmd:"" help:"Show every logical slot of the server."`
}

type slotInspectCmd struct{}

func (slotInspectCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase)
	if err != nil {
		return err
	}
	return inspectSlot(a.ctx, cfg, a.stdout, a.format, log)
}

type slotListCmd struct{}

func (slotListCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase)
	if err != nil {
		return err
	}
	return listSlots(a.ctx, cfg, a.stdout, a.format, log)
}
