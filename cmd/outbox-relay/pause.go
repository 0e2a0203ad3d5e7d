package main

import "github.com/holdwall/outbox-relay/internal/config"

type pauseCmd struct {
	Reason string `placeholder:"TEXT" help:"Why, for those who find the relay paused."`
	All    bool   `help:"Every relay of the database, not only OUTBOX_NAME."`
}

func (c *pauseCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase)
	if err != nil {
		return err
	}
	return pauseRelay(a.ctx, cfg, c.All, c.Reason, a.stdout, a.format, log)
}

type resumeCmd struct {
	All bool `help:"Every relay of the database, and what pauses them all."`
}

func (c *resumeCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase)
	if err != nil {
		return err
	}
	return resumeRelay(a.ctx, cfg, c.All, a.stdout, a.format, log)
}
