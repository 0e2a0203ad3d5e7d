package main

import "github.com/holdwall/outbox-relay/internal/config"

type statusCmd struct {
	Watch bool   `short:"w" help:"Go on, once a second, until q or an interrupt."`
	URL   string `name:"url" placeholder:"URL" help:"Where the relay answers; default: HEALTH_ADDR on this host."`
}

func (c *statusCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase)
	if err != nil {
		return err
	}
	return c.show(a, newParts(cfg, log).once())
}
