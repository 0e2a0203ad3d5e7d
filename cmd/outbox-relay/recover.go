package main

import (
	"time"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
)

type recoverCmd struct {
	Yes     bool     `help:"Do it, after the plan is shown."`
	DryRun  bool     `help:"Only show the plan, also where somebody could be asked."`
	Accept  []string `placeholder:"WORDS" sep:"none" help:"Repeat a decision exactly as the plan prints it; may be given several times."`
	Missing bool     `help:"Publish rows that are in no topic, though nothing is wrong with slot and checkpoint."`
	NewSlot bool     `help:"Make the slot anew, though it could be streamed from."`
	Since   string   `placeholder:"TIME" help:"Leave out rows that were created before, as 2026-01-31T12:00:00Z, 2026-01-31 or 24h (ago)."`
	Topic   []string `placeholder:"TOPIC" help:"Read this topic too for what was published; may be given several times."`
	Lost    string   `placeholder:"FILE" help:"Write the events that the database no longer knows to this file, as JSON, one to a line."`
	TempDir string   `placeholder:"DIR" help:"Where temporary files go, 90 bytes for each row and record."`
}

func (c *recoverCmd) Run(a *app) error {
	if c.Yes && c.DryRun {
		return fault.New(fault.CommandLine, "--yes and --dry-run").WithWhy("one does it, the other does not").WithFix("leave one out")
	}
	since, err := pointInTime("--since", c.Since)
	if err != nil {
		return err
	}
	cfg, log, err := a.settings(config.NeedDatabase, config.NeedKafka)
	if err != nil {
		return err
	}
	job := rescue{
		recoverCmd: *c, since: since, began: time.Now(), out: a.stdout, notes: a.stderr, format: a.format,
		bar: newProgress(a.stderr, terminal(a.stderr) && !has(a.environ, "NO_COLOR")),
	}
	if terminal(a.stderr) && terminalIn(a.stdin) && a.format != formatJSON && !c.DryRun {
		job.ask = a.stdin
	}
	return job.run(a.ctx, cfg, log)
}
