package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/gate"
	"github.com/holdwall/outbox-relay/internal/slots"
	"github.com/holdwall/outbox-relay/replication"
)

type waitCmd struct {
	LSN     string        `name:"lsn" default:"now" placeholder:"LSN" help:"Position to wait for, or now: where the WAL ends at the start."`
	Timeout time.Duration `default:"30s" placeholder:"30s" help:"How long to wait."`
}

func (c *waitCmd) Run(a *app) error { return a.pass(c.LSN, c.Timeout) }

type drainCmd struct {
	Until   string        `default:"now" placeholder:"LSN" help:"Position, or now: where the WAL ends at the start."`
	Timeout time.Duration `default:"5m" placeholder:"5m" help:"How long to wait."`
}

func (c *drainCmd) Run(a *app) error { return a.pass(c.Until, c.Timeout) }

// gate is the wait for this relay's position. Asking Kafka as well is for
// commands: a running relay knows better.
func (p *parts) gate(askKafka bool) *gate.Gate {
	g := &gate.Gate{Slot: p.cfg.Outbox.Slot, Connect: func(ctx context.Context) (*pgx.Conn, error) {
		src, err := p.sourceConfig(false)
		if err != nil {
			return nil, err
		}
		srv, err := replication.Connect(ctx, src)
		if err != nil {
			return nil, err
		}
		return srv.Conn(), nil
	}}
	if askKafka {
		g.Covered = p.covered()
	}
	return g
}

// pass waits at the gate, and shows how far it is.
func (a *app) pass(lsn string, limit time.Duration) error {
	if limit < 0 {
		return fault.New(fault.CommandLine, "--timeout is %s", limit).WithWhy("it is not negative")
	}
	cfg, log, err := a.settings(config.NeedDatabase)
	if err != nil {
		return err
	}
	bar := newProgress(a.stderr, terminal(a.stderr))
	var most int64
	ans, err := newParts(cfg, log).once().gate(true).Wait(a.ctx, lsn, limit, func(ans gate.Answer) {
		most = max(most, ans.LeftBytes)
		bar.at("drain", most-ans.LeftBytes, most)
	})
	bar.end()
	if errors.Is(err, context.Canceled) {
		return err
	}
	if a.format == formatJSON && ans.Confirmed != "" {
		if werr := writeJSON(a.stdout, ans); werr != nil {
			return werr
		}
	}
	if err != nil || a.format == formatJSON {
		return err
	}
	fmt.Fprintf(a.stdout, "everything that committed below %s is in Kafka: the relay has confirmed %s (waited %s)\n",
		ans.LSN, ans.Confirmed, slots.Span(time.Duration(ans.Seconds*float64(time.Second))))
	if ans.Kafka != "" {
		fmt.Fprintf(a.stdout, "Kafka itself could not be asked: %s\n", ans.Kafka)
	}
	return nil
}
