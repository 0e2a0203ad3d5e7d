package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/cleanup"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/provision"
)

// presumedVersion stands for the server in a dry run, which asks nobody.
const presumedVersion = 170000

// initialise creates what a relay needs, or only prints it.
func initialise(ctx context.Context, cfg config.Config, dryRun, partitioned bool, out io.Writer, format string, log zerolog.Logger) error {
	p := newParts(cfg, log)
	plan, err := p.plan()
	if err != nil {
		return err
	}
	p.partition(plan, partitioned)
	if dryRun {
		return printPlan(out, format, plan.Statements, p.topics())
	}
	if err := p.reach(ctx, "init"); err != nil {
		return err
	}
	done, err := plan.Run(ctx)
	if err != nil {
		return p.trace.Explain(err)
	}
	if format == formatJSON {
		return writeJSON(out, map[string]any{
			"created": done.Created, "slot": cfg.Outbox.Slot, "lsn": done.Position.String(), "checkpoint_seq": done.Checkpoint.Seq,
		})
	}
	if !done.Created {
		fmt.Fprintf(out, "already initialised: slot %s at %s, checkpoint %d at %s\n",
			cfg.Outbox.Slot, done.Position, done.Checkpoint.Seq, done.Checkpoint.Pos)
		return nil
	}
	fmt.Fprintf(out, "initialised: slot %s at %s, first checkpoint in %s\nnext: outbox-relay serve\n",
		cfg.Outbox.Slot, done.Position, cfg.Kafka.CheckpointTopic)
	return nil
}

// partition has a plan make a partitioned table, with its first partitions.
func (p *parts) partition(plan *provision.Plan, partitioned bool) {
	if plan.Partitioned = partitioned; !partitioned {
		return
	}
	c := p.cfg.Cleanup
	for _, r := range cleanup.Ranges(time.Now(), c.Interval, c.Ahead) {
		plan.Partitions = append(plan.Partitions, r.FirstSQL(p.table))
	}
}

func printPlan[T fmt.Stringer](out io.Writer, format string, statements func(int) ([]string, error), topics []T) error {
	sql, err := statements(presumedVersion)
	if err != nil {
		return err
	}
	if format == formatJSON {
		names := make([]string, len(topics))
		for i, t := range topics {
			names[i] = t.String()
		}
		return writeJSON(out, map[string]any{"sql": sql, "topics": names})
	}
	fmt.Fprintln(out, "-- SQL, as OUTBOX_ADMIN_URL or DATABASE_URL (before Postgres 17 without the last argument of the slot's function)")
	for _, s := range sql {
		fmt.Fprintf(out, "%s;\n", s)
	}
	fmt.Fprintln(out, "\n# topics; replication factor is the brokers' default")
	for _, t := range topics {
		fmt.Fprintln(out, t)
	}
	fmt.Fprintln(out, "\n# then: an intent record before the slot, and the first checkpoint at its consistent point")
	return nil
}
