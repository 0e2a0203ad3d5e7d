package main

import (
	"errors"
	"os"
	"time"

	"github.com/holdwall/outbox-relay/internal/demo"
	"github.com/holdwall/outbox-relay/internal/fault"
)

type demoCmd struct {
	Duration time.Duration `default:"20s" help:"How long events are committed."`
	Rate     int           `default:"200" help:"Events per second."`
	CI       bool          `name:"ci" help:"Plain lines, and a status by the result."`
	NoChaos  bool          `help:"Kill nothing on purpose."`
	Fast     bool          `help:"Postgres without fsync."`
	Keep     bool          `help:"Leave folder, topics and tables behind."`
}

func (c *demoCmd) Run(a *app) error {
	cfg, log, err := a.settings()
	if err != nil {
		return err
	}
	if c.Duration <= 0 || c.Rate <= 0 {
		return fault.New(fault.CommandLine, "--duration and --rate are above 0").WithFix("outbox-relay demo --duration 20s --rate 200")
	}
	d := demo.Config{
		DatabaseURL: cfg.Database.URL.Reveal(), Brokers: cfg.Kafka.Client.Brokers,
		Duration: c.Duration, Rate: c.Rate, CI: c.CI, NoChaos: c.NoChaos, Fast: c.Fast, Keep: c.Keep,
		Version: build().Version, Environ: a.environ,
	}
	if stdin, ok := a.stdin.(*os.File); ok {
		d.Stdin = stdin
	}
	if len(d.Brokers) > 0 {
		if d.KafkaOpts, err = cfg.Kafka.Client.Options("demo", log, nil); err != nil {
			return err
		}
	}
	err = demo.Run(a.ctx, d, a.stdout, a.stderr)
	var found *demo.FindingsError
	if errors.As(err, &found) {
		// The table has told what was found.
		return exitStatus(4)
	}
	return err
}

// demoPostgresCmd owns the demo's Postgres; the demo starts it.
type demoPostgresCmd struct{}

func (demoPostgresCmd) Run(a *app) error {
	return demo.SupervisePostgres(a.ctx, a.stdin, a.stdout)
}
