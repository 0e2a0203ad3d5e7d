package demo

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the test binary stand in for the real one where the demo
// starts children of itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		var child func() error
		switch os.Args[1] {
		case PostgresCommand:
			child = func() error { return SupervisePostgres(context.Background(), os.Stdin, os.Stdout) }
		case "serve":
			child = runStandIn
		case "demo":
			child = func() error {
				ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
				defer stop()
				return Run(ctx, Config{Duration: time.Minute, Fast: true, Stdin: os.Stdin, Version: "v0"}, os.Stdout, os.Stderr)
			}
		}
		if child != nil {
			if err := child(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	// Under the race detector a program lingers for a second when it exits.
	// The children would, which is nothing to be measured as the demo's.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
