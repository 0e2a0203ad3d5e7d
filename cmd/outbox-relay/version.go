package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"text/tabwriter"
)

// Set by the linker: -X main.version=... -X main.commit=...
var (
	version = "dev"
	commit  = ""
)

// buildFacts say what was built.
type buildFacts struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"`
	GoVersion string `json:"go_version"`
	Platform  string `json:"platform"`
}

func build() buildFacts {
	b := buildFacts{Version: version, Commit: commit, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok && b.Commit == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Commit = s.Value
			}
		}
	}
	if b.Commit == "" {
		b.Commit = "unknown"
	}
	return b
}

type versionCmd struct{}

// Run prints what was built.
func (versionCmd) Run(a *app) error {
	b := build()
	if a.format == formatJSON {
		return writeJSON(a.stdout, b)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "outbox-relay\t%s\ncommit\t%s\ngo\t%s\nplatform\t%s\n", b.Version, b.Commit, b.GoVersion, b.Platform)
	return w.Flush()
}
