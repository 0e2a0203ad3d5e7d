package main

import (
	"slices"

	"github.com/alecthomas/kong"

	"github.com/holdwall/outbox-relay/internal/config"
)

// helpFlag prints the help and ends the parsing, before anything is read.
type helpFlag bool

// BeforeReset is called by the parser as soon as the flag is seen.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	if err := ctx.PrintUsage(false); err != nil {
		return err
	}
	return errHelp
}

// IsBool lets the flag stand alone.
func (helpFlag) IsBool() bool { return true }

// helpPrinter leaves the settings out where they would hide everything else:
// of the program's own help, and of commands that have none.
func helpPrinter(loader *config.Loader) kong.HelpPrinter {
	return func(options kong.HelpOptions, ctx *kong.Context) error {
		selected := ctx.Selected()
		// Those of dlq have filters, which would drown.
		listed := selected != nil && (selected.Parent == nil || selected.Parent.Name != "dlq") && slices.Contains([]string{"init", "serve", "pipeline", "demo", "verify", "inspect", "list", "show"}, selected.Name)
		for _, f := range ctx.Model.Flags {
			if setting, argv := loader.IsSetting(f.Name); setting && !(listed && argv) {
				f.Hidden = true
			}
		}
		return kong.DefaultHelpPrinter(options, ctx)
	}
}
