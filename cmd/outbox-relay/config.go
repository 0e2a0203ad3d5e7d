package main

import (
	"errors"
	"fmt"

	"github.com/holdwall/outbox-relay/internal/config"
)

type configCmd struct {
	Show     configShowCmd     `cmd:"" help:"Print every setting with its value and where that came from."`
	Env      configEnvCmd      `cmd:"" help:"Print every setting that there is: variable, key, flag, default and meaning."`
	Validate configValidateCmd `cmd:"" help:"Judge the settings as serve would, and start nothing."`
}

type configShowCmd struct{}

// Run prints the settings even if something is wrong with them: that is when
// it is asked for. What is wrong follows on standard error, and in the status.
func (configShowCmd) Run(a *app) error {
	_, err := a.loader.Load()
	if a.format == formatJSON {
		shown := struct {
			Fingerprint string           `json:"fingerprint"`
			Settings    []config.Entry   `json:"settings"`
			Warnings    []config.Warning `json:"warnings"`
		}{a.loader.Fingerprint(), a.loader.Entries(), orNone(a.loader.Warnings())}
		if werr := writeJSON(a.stdout, shown); werr != nil {
			return werr
		}
		return err
	}
	if werr := config.WriteTable(a.stdout, a.loader.Entries()); werr != nil {
		return werr
	}
	a.printWarnings()
	return err
}

type configEnvCmd struct {
	Markdown bool `help:"Print Markdown tables."`
}

// Run reads no settings: what there is does not depend on what is set.
func (c configEnvCmd) Run(a *app) error {
	all := config.Reference()
	switch {
	case c.Markdown:
		return config.WriteReferenceMarkdown(a.stdout, all)
	case a.format == formatJSON:
		return writeJSON(a.stdout, all)
	}
	return config.WriteReference(a.stdout, all)
}

type configValidateCmd struct {
	Strict bool `help:"Take warnings, such as a misspelt variable, for errors."`
}

// validation is what config validate says with -o json; its keys are stable.
type validation struct {
	Valid       bool             `json:"valid"`
	Fingerprint string           `json:"fingerprint"`
	Problems    []failure        `json:"problems"`
	Warnings    []config.Warning `json:"warnings"`
}

func (c configValidateCmd) Run(a *app) error {
	_, err := a.loader.Load(config.NeedDatabase, config.NeedKafka)
	var problems config.Problems
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	warnings := orNone(a.loader.Warnings())
	v := validation{
		Valid: len(problems) == 0 && !(c.Strict && len(warnings) > 0), Fingerprint: a.loader.Fingerprint(),
		Problems: failuresOf(problems), Warnings: warnings,
	}
	if a.format == formatJSON {
		if err := writeJSON(a.stdout, v); err != nil {
			return err
		}
	} else {
		a.printWarnings()
		if v.Valid {
			fmt.Fprintf(a.stdout, "the settings are sound (fingerprint %s)\n", v.Fingerprint)
		}
		if len(problems) > 0 {
			return problems
		}
	}
	if !v.Valid {
		return exitStatus(2)
	}
	return nil
}

func (a *app) printWarnings() {
	for _, w := range a.loader.Warnings() {
		fmt.Fprintf(a.stderr, "warning: %s\n  fix: %s\n", w.Detail, w.Fix)
	}
}

// orNone makes a list that is shown as one even if it is empty.
func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
