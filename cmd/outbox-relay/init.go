package main

import "github.com/holdwall/outbox-relay/internal/config"

type initCmd struct {
	DryRun bool `help:"Only print the SQL and the topics."`
}

func (c *initCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase, config.NeedKafka)
	if err != nil {
		return err
	}
	return initialise(a.ctx, cfg, c.DryRun, a.stdout, a.format, log)
}
