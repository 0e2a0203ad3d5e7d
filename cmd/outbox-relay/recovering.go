package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/recovery"
	"github.com/holdwall/outbox-relay/internal/relay"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// rescue is one run of `recover`.
type rescue struct {
	recoverCmd
	since  time.Time
	began  time.Time
	out    io.Writer
	notes  io.Writer
	format string
	bar    *progress
	ask    io.Reader // nil: nobody to ask

	lost *os.File
}

// run shows the plan and, if it may, carries it out.
func (j *rescue) run(ctx context.Context, cfg config.Config, log zerolog.Logger) error {
	p := newParts(cfg, log).once()
	if err := p.reach(ctx, "recover"); err != nil {
		return err
	}
	c, err := j.config(p)
	if err != nil {
		return err
	}
	defer j.closeLost()
	planned, err := j.plan(ctx, cfg, c)
	if err != nil || planned {
		return p.trace.Explain(err)
	}
	return j.carryOut(ctx, p, c)
}

func (j *rescue) config(p *parts) (recovery.Config, error) {
	src, err := p.sourceConfig(true)
	if err != nil {
		return recovery.Config{}, err
	}
	c := recovery.Config{
		Source: src, Table: p.table, Columns: p.cfg.Outbox.Columns, Name: p.cfg.Outbox.Name, Version: build().Version,
		Router: p.translator().Router, Letters: p.cfg.Kafka.DLQTopic, Checkpoint: p.cfg.Kafka.CheckpointTopic,
		Kafka: p.client, Topics: j.Topic, Since: j.since, Accept: j.Accept, NewSlot: j.NewSlot, Missing: j.Missing,
		Stall: p.cfg.Kafka.Client.RequestTimeout, TempDir: j.TempDir, Log: p.log.With().Str("component", "recover").Logger(),
		Progress: func(g audit.Progress) { j.bar.at(g.Step, g.Done, g.Total) },
	}
	if j.recoverCmd.Lost == "" {
		return c, nil
	}
	if j.lost, err = os.Create(j.recoverCmd.Lost); err != nil {
		return c, fault.Wrap(err, fault.CommandLine, "--lost")
	}
	return c, nil
}

// note writes down an event that the database no longer knows.
func (j *rescue) note(l audit.Lost) error {
	return json.NewEncoder(j.lost).Encode(map[string]any{
		"id": l.ID, "topic": l.Where.Topic, "partition": l.Where.Partition, "offset": l.Where.Offset,
		"timeline": l.Position.Timeline, "lsn": l.Position.LSN.String(), "ord": l.Position.Ordinal, "inserted_again": l.Again,
	})
}

func (j *rescue) closeLost() {
	if j.lost != nil {
		_ = j.lost.Close() // what was written is with the system since the last line
	}
}

// plan shows what would be done. It tells whether that was all: nothing is wrong,
// or nobody said yes.
func (j *rescue) plan(ctx context.Context, cfg config.Config, c recovery.Config) (over bool, err error) {
	if j.lost != nil {
		c.Lost = j.note
	}
	r, err := recovery.Open(ctx, c, false)
	if err != nil {
		return false, err
	}
	defer r.Close()
	if r.Sound() {
		return true, j.show(planOf(r, cfg, "nothing"))
	}
	if j.Yes {
		// What it will find is shown when it is found for good. What a person has
		// to decide is asked for before anything is done.
		return false, r.Accepted(j.Accept)
	}
	err = r.Preview(ctx)
	j.bar.end()
	if err != nil {
		return false, err
	}
	if err := j.show(planOf(r, cfg, "plan")); err != nil {
		return false, err
	}
	if err := r.Accepted(j.Accept); err != nil {
		return false, err
	}
	if j.ask == nil {
		return true, exitFinding
	}
	fmt.Fprintf(j.notes, "\nType the name of the slot, %s, to do this: ", cfg.Outbox.Slot)
	typed, _ := bufio.NewReader(j.ask).ReadString('\n')
	if strings.TrimSpace(typed) != cfg.Outbox.Slot {
		fmt.Fprintln(j.notes, "nothing was done")
		return true, exitFinding
	}
	return false, nil
}

// carryOut does what the plan says.
func (j *rescue) carryOut(ctx context.Context, p *parts, c recovery.Config) error {
	r, err := recovery.Open(ctx, c, true)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Sound() {
		return j.show(planOf(r, p.cfg, "nothing"))
	}
	if err := r.Accepted(j.Accept); err != nil {
		return err
	}
	run, guard := p.recoverer(r)
	gctx, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(fault.Guard(func() error { return guard.Run(gctx) }))
	err = fault.Guard(func() error { return run.Run(ctx) })()
	stop()
	_ = g.Wait() // the breaker ends with its context
	j.bar.end()
	switch {
	case err != nil:
		return p.trace.Explain(err)
	case ctx.Err() != nil:
		fmt.Fprintln(j.notes, "stopped; outbox-relay recover --yes goes on with what is left")
		return context.Cause(ctx)
	}
	return j.show(planOf(r, p.cfg, "done"))
}

// recoverer is a relay that publishes what is missing, and ends.
func (p *parts) recoverer(r *recovery.Recovery) (*relay.Relay, *breaker.Breaker) {
	var alive func(context.Context) error
	guard := breaker.New(p.cfg.Kafka.Breaker, breaker.Options{
		Name: "kafka", Probe: func(ctx context.Context) error { return p.reach(ctx, "probe") }, Log: p.log, Metrics: p.breaker,
	})
	o := p.cfg.Outbox
	rows := p.translator()
	rows.Recovered = true
	return &relay.Relay{
		Refill: r, Breaker: guard, Letters: p.letters(),
		Probe: func(ctx context.Context, sess sink.Session, records []*kgo.Record) (error, error) {
			opts, err := p.client("bisect")
			if err != nil {
				return nil, err
			}
			return sink.Probe(ctx, p.sinkConfig(), opts, sess.Catalog, records, p.log)
		},
		OpenSource: func(ctx context.Context) (relay.Source, error) {
			src, err := r.Source(ctx, p.log, p.source)
			if err != nil {
				return nil, err
			}
			alive = src.Alive
			return src, nil
		},
		OpenSink: func(ctx context.Context) (relay.Sink, sink.Session, error) {
			c := p.sinkConfig()
			c.Alive, c.Tolerant = alive, true
			if err := p.reach(ctx, "sink"); err != nil {
				return nil, sink.Session{}, err
			}
			opts, err := p.client("sink")
			if err != nil {
				return nil, sink.Session{}, err
			}
			c.Reach = func(ctx context.Context) error { return p.reach(ctx, "sink") }
			c.Reader = func() ([]kgo.Opt, error) { return p.client("reader") }
			snk, sess, err := sink.Open(ctx, c, opts, p.log, p.sink)
			if err != nil {
				return nil, sess, p.trace.Explain(err)
			}
			return snk, sess, nil
		},
		NewTranslator: func(st replication.State, sess sink.Session) (relay.RowTranslator, error) {
			return relay.NewTranslator(rows, st, sess, p.relay)
		},
		Publication: o.Publication, Version: build().Version,
		Limits:    relay.Limits{Size: o.BatchSize, Max: o.BatchMax, MaxBytes: int(o.BatchMaxBytes)},
		Heartbeat: o.HeartbeatInterval, DrainTimeout: stopGrace, Log: p.log, Metrics: p.relay,
	}, guard
}
