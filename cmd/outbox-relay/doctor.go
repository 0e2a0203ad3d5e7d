package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/doctor"
	"github.com/holdwall/outbox-relay/internal/fault"
)

type doctorCmd struct {
	Only   []string `placeholder:"GROUP,..." help:"Only these groups: config, postgres, slot, publication, kafka, rights, host."`
	Strict bool     `help:"End with status 4 for warnings too."`
	All    bool     `help:"Show what is well, too."`
}

// Run looks at everything, also with settings that serve would refuse: that is
// when it is asked.
func (c *doctorCmd) Run(a *app) error {
	var only []doctor.Group
	for _, name := range c.Only {
		g := doctor.Group(strings.ToLower(strings.TrimSpace(name)))
		if !slices.Contains(doctor.Groups(), g) {
			return fault.New(fault.CommandLine, "--only %s: no such group", name).WithFix("--only %s", doctor.Postgres)
		}
		only = append(only, g)
	}
	cfg, err := a.loader.Load(config.NeedDatabase, config.NeedKafka)
	var problems config.Problems
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	log := newLogger(a.stderr, cfg.Log, terminal(a.stderr), a.environ)
	return examine(a.ctx, doctor.Config{
		Settings: cfg, Problems: problems, Warnings: a.loader.Warnings(), Only: only, Limits: doctor.DefaultLimits(), Log: log,
	}, c.Strict, doctorText{all: c.All, color: terminal(a.stdout) && !has(a.environ, "NO_COLOR")}, a.stdout, a.format)
}
