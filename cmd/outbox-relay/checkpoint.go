package main

import "github.com/holdwall/outbox-relay/internal/config"

type checkpointCmd struct {
	Show checkpointShowCmd `cmd:"" help:"Show the newest checkpoint."`
}

type checkpointShowCmd struct{}

func (checkpointShowCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedKafka)
	if err != nil {
		return err
	}
	return showCheckpoint(a.ctx, cfg, a.stdout, a.format, log)
}
