package main

import (
	"time"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
)

type verifyCmd struct {
	Data    bool          `help:"Compare the outbox table with the topics instead."`
	Since   string        `placeholder:"TIME" help:"With --data: leave out what was created before, as 2026-01-31T12:00:00Z, 2026-01-31 or 24h (ago)."`
	Limit   int           `default:"20" help:"With --data: how many findings of each kind to describe."`
	Wait    time.Duration `default:"30s" help:"With --data: how long to let a running relay come up to the table."`
	TempDir string        `placeholder:"DIR" help:"With --data: where temporary files go, 90 bytes for each row and record."`
}

func (c *verifyCmd) Run(a *app) error {
	if !c.Data {
		if c.Since != "" || c.TempDir != "" {
			return fault.New(fault.CommandLine, "--since and --temp-dir are for --data").
				WithWhy("without it Kafka is checked, and no row").WithFix("outbox-relay verify --data")
		}
		cfg, log, err := a.settings(config.NeedKafka)
		if err != nil {
			return err
		}
		return verifyKafka(a.ctx, cfg, a.stdout, a.format, log)
	}
	since, err := pointInTime("--since", c.Since)
	if err != nil {
		return err
	}
	cfg, log, err := a.settings(config.NeedDatabase, config.NeedKafka)
	if err != nil {
		return err
	}
	bar := newProgress(a.stderr, terminal(a.stderr) && !has(a.environ, "NO_COLOR"))
	return verifyData(a.ctx, cfg, dataCheck{since: since, limit: max(0, c.Limit), wait: max(0, c.Wait), tempDir: c.TempDir, bar: bar}, a.stdout, a.format, log)
}
