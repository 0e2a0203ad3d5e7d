package main

import (
	"io"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"github.com/holdwall/outbox-relay/internal/config"
)

// nameLogFields gives log lines the names and the time format that the
// documentation promises. The logging library has them as variables of the
// process, so this is for main, before anything else runs.
func nameLogFields() {
	zerolog.MessageFieldName = "msg"
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000000Z07:00"
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
	zerolog.DurationFieldUnit = time.Second
}

// newLogger writes JSON, or lines for people if somebody watches.
func newLogger(w io.Writer, cfg config.Log, watched bool, environ []string) zerolog.Logger {
	level, err := zerolog.ParseLevel(cfg.Level)
	if err != nil {
		level = zerolog.InfoLevel // the loader has refused all but known names
	}
	if cfg.Format == "console" || cfg.Format == "auto" && watched {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !watched || has(environ, "NO_COLOR")}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// terminal tells whether somebody watches.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// has tells whether a variable is set and not empty.
func has(environ []string, name string) bool {
	for _, kv := range environ {
		if k, v, _ := strings.Cut(kv, "="); k == name && v != "" {
			return true
		}
	}
	return false
}
