package main

import (
	"time"

	"github.com/holdwall/outbox-relay/internal/config"
)

type cleanupCmd struct {
	DryRun  bool          `help:"Only say what would be removed, with the SQL."`
	Watch   bool          `help:"Go on, once in an interval, until stopped."`
	Every   time.Duration `default:"10m" placeholder:"10m" help:"Interval of --watch."`
	MaxRows int64         `placeholder:"N" help:"Most rows that one run deletes; 0: any number."`
	Pause   time.Duration `default:"0s" placeholder:"0s" help:"Pause after each transaction, to spare the server."`
	Wait    time.Duration `default:"30s" placeholder:"30s" help:"How long to wait for a relay that is behind."`
}

func (c *cleanupCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase)
	if err != nil {
		return err
	}
	return c.clean(a, newParts(cfg, log).once())
}
