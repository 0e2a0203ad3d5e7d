package main

import (
	"fmt"

	"github.com/holdwall/outbox-relay/internal/config"
)

type schemaCmd struct {
	SQL     schemaSQLCmd     `cmd:"" name:"sql" help:"Print the SQL that makes the table."`
	Install schemaInstallCmd `cmd:"" help:"Make the table, and nothing else."`
}

// schemaKind is which table is meant.
type schemaKind struct {
	Partitioned bool `help:"A table that is partitioned by time."`
}

type schemaSQLCmd struct {
	schemaKind `embed:""`
}

// Run needs no server.
func (c *schemaSQLCmd) Run(a *app) error {
	cfg, log, err := a.settings()
	if err != nil {
		return err
	}
	p := newParts(cfg, log)
	plan, err := p.plan()
	if err != nil {
		return err
	}
	p.partition(plan, c.Partitioned)
	sql, err := plan.TableStatements()
	if err != nil {
		return err
	}
	return (&slotting{app: a, parts: p}).print(sql...)
}

type schemaInstallCmd struct {
	schemaKind `embed:""`
	DryRun     bool `help:"Only print the SQL."`
}

func (c *schemaInstallCmd) Run(a *app) error {
	if c.DryRun {
		return (&schemaSQLCmd{c.schemaKind}).Run(a)
	}
	cfg, log, err := a.settings(config.NeedDatabase)
	if err != nil {
		return err
	}
	p := newParts(cfg, log)
	plan, err := p.plan()
	if err != nil {
		return err
	}
	p.partition(plan, c.Partitioned)
	made, err := plan.Install(a.ctx)
	if err != nil {
		return err
	}
	if a.format == formatJSON {
		return writeJSON(a.stdout, map[string]any{"table": cfg.Outbox.Table.String(), "created": made})
	}
	if !made {
		fmt.Fprintf(a.stdout, "table %s is there already, and fit\n", cfg.Outbox.Table)
		return nil
	}
	fmt.Fprintf(a.stdout, "table %s is made\nnext: outbox-relay init\n", cfg.Outbox.Table)
	return nil
}
