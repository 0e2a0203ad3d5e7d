package main

import "github.com/holdwall/outbox-relay/internal/config"

type initCmd struct {
	DryRun      bool `help:"Only print the SQL and the topics."`
	Partitioned bool `help:"Make a table that is partitioned by time."`
}

func (c *initCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase, config.NeedKafka)
	if err != nil {
		return err
	}
	return initialise(a.ctx, cfg, c.DryRun, c.Partitioned, a.stdout, a.format, log)
}
