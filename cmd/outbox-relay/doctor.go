package main

import (
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/doctor"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/rights"
)

type doctorCmd struct {
	Only   []string `placeholder:"GROUP,..." help:"Only these groups: config, postgres, slot, publication, kafka, rights, host."`
	Strict bool     `help:"End with status 4 for warnings too."`
	All    bool     `help:"Show what is well, too."`

	PrintSQL  bool   `name:"print-sql" xor:"what" help:"Print the roles that these settings need, as SQL, and look at nothing."`
	PrintACLs bool   `name:"print-acls" xor:"what" help:"Print the ACLs that these settings need, for kafka-acls.sh."`
	Principal string `placeholder:"NAME" help:"With --print-acls: the relay's principal, as User:outbox-relay; else from KAFKA_SASL_USERNAME."`
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
	needs := []config.Need{config.NeedDatabase, config.NeedKafka}
	if c.PrintSQL || c.PrintACLs {
		needs = nil // what is not set has a name that stands for it
	}
	cfg, err := a.loader.Load(needs...)
	var problems config.Problems
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	if c.PrintSQL || c.PrintACLs {
		if len(problems) > 0 {
			return problems
		}
		setup := rights.Of(cfg)
		if c.Principal != "" {
			setup.Principal = c.Principal
		}
		return printRights(setup, c.PrintSQL, a.stdout, a.format)
	}
	log := newLogger(a.stderr, cfg.Log, terminal(a.stderr), a.environ)
	return examine(a.ctx, doctor.Config{
		Settings: cfg, Problems: problems, Warnings: a.loader.Warnings(), Only: only, Limits: doctor.DefaultLimits(), SecretFiles: secretFiles(a.loader.Entries()), Log: log,
	}, c.Strict, doctorText{all: c.All, color: terminal(a.stdout) && !has(a.environ, "NO_COLOR")}, a.stdout, a.format)
}

// secretFiles are the files that hold secrets, by setting.
func secretFiles(all []config.Entry) map[string]string {
	files := map[string]string{}
	for _, e := range all {
		if strings.HasSuffix(e.Name, "_FILE") && e.Value != "" && !strings.Contains(e.Name, "_CA_") && !strings.Contains(e.Name, "_CERT_") {
			files[e.Name] = e.Value
		}
	}
	return files
}

// grantView is a right in Postgres as the command shows it; its keys are stable.
type grantView struct {
	SQL       string `json:"sql"`
	Undo      string `json:"undo"`
	For       string `json:"for"`
	AfterInit bool   `json:"after_init"`
}

func printRights(s rights.Setup, sql bool, out io.Writer, format string) error {
	switch {
	case !sql && format == formatJSON:
		return writeJSON(out, map[string]any{"principals": s.Accesses()})
	case !sql:
		return s.WriteACLs(out)
	case format != formatJSON:
		return s.WriteSQL(out)
	}
	roles := []map[string]any{}
	for _, r := range s.Roles() {
		grants := []grantView{}
		for _, g := range r.Grants {
			grants = append(grants, grantView(g))
		}
		roles = append(roles, map[string]any{"purpose": r.Purpose, "role": r.Name, "about": r.About, "create": r.Create(), "grants": grants})
	}
	return writeJSON(out, map[string]any{"roles": roles})
}
