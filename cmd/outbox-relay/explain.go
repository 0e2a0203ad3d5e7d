package main

import (
	"time"

	"github.com/holdwall/outbox-relay/internal/config"
)

type explainCmd struct {
	ID      string        `arg:"" name:"event-id" help:"Id of the event, as its row has it."`
	Topic   []string      `placeholder:"TOPIC" help:"Search this topic too; may be repeated."`
	Wait    time.Duration `default:"12s" placeholder:"12s" help:"How long to wait for a relay that has not come to the row."`
	Timeout time.Duration `default:"2m" placeholder:"2m" help:"How long the whole search may take."`
}

func (c *explainCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase, config.NeedKafka)
	if err != nil {
		return err
	}
	return c.explain(a, newParts(cfg, log).once())
}
