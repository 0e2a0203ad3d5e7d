package main

import "github.com/holdwall/outbox-relay/internal/config"

type serveCmd struct {
	ExitOnHalt bool   `help:"End with status 6 when a person has to decide, instead of staying up unready."`
	AcceptGap  string `placeholder:"C:F" help:"Accept the loss of exactly the range that the gap error prints."`
}

func (c *serveCmd) Run(a *app) error {
	cfg, log, err := a.settings(config.NeedDatabase, config.NeedKafka)
	if err != nil {
		return err
	}
	return serve(a.ctx, cfg, serveOptions{
		exitOnHalt: c.ExitOnHalt, acceptGap: c.AcceptGap, fingerprint: a.loader.Fingerprint(), entries: a.loader.Entries(),
		environ: a.environ,
	}, log)
}
