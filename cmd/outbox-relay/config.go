package main

import (
	"fmt"

	"github.com/holdwall/outbox-relay/internal/config"
)

type configCmd struct {
	Show configShowCmd `cmd:"" help:"Print every setting with its value and where that came from."`
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
		}{a.loader.Fingerprint(), a.loader.Entries(), a.loader.Warnings()}
		if shown.Warnings == nil {
			shown.Warnings = []config.Warning{}
		}
		if werr := writeJSON(a.stdout, shown); werr != nil {
			return werr
		}
		return err
	}
	if werr := config.WriteTable(a.stdout, a.loader.Entries()); werr != nil {
		return werr
	}
	for _, w := range a.loader.Warnings() {
		fmt.Fprintf(a.stderr, "warning: %s\n  fix: %s\n", w.Detail, w.Fix)
	}
	return err
}
