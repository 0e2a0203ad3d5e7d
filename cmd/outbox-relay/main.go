// Command outbox-relay relays committed rows of a Postgres outbox table to
// Kafka, exactly once.
//
// The package holds the command line, the wiring of the rooms and the printing
// of results; what the program does is in the rooms. Results go to standard
// output and everything else to standard error, so that output can be piped.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	nameLogFields()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(process{
		args: os.Args[1:], environ: os.Environ(), signals: signals, exit: os.Exit,
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}))
}
