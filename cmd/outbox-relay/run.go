package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// grammar is the command line. Settings are added to it by the config loader.
type grammar struct {
	Help   helpFlag `short:"h" help:"Show what there is, for the program or for one command."`
	Output string   `short:"o" enum:"table,json" default:"table" placeholder:"FORMAT" help:"Form of results and errors: table or json."`

	Init       initCmd       `cmd:"" help:"Create table, publication, slot, topics and first checkpoint."`
	Serve      serveCmd      `cmd:"" help:"Relay until stopped."`
	Pipeline   pipelineCmd   `cmd:"" help:"Hand events to an HTTP endpoint or to a child process."`
	Demo       demoCmd       `cmd:"" help:"Show it at work on this machine, with Postgres and Kafka of its own."`
	Verify     verifyCmd     `cmd:"" help:"Check Kafka with these settings, step by step."`
	Doctor     doctorCmd     `cmd:"" help:"Look at everything the relay stands on, and say what is wrong or will be."`
	DLQ        dlqCmd        `cmd:"" name:"dlq" help:"Look at dead letters, replay or purge them."`
	Status     statusCmd     `cmd:"" help:"Show one relay on one screen, and what to type next."`
	Slot       slotCmd       `cmd:"" help:"Look at replication slots, and change them."`
	Explain    explainCmd    `cmd:"" help:"Say where one event is: row, slot, record or dead letter."`
	Wait       waitCmd       `cmd:"" help:"Wait until everything that committed up to a position is in Kafka."`
	Drain      drainCmd      `cmd:"" help:"Wait until everything up to now is in Kafka, as before a switchover."`
	Schema     schemaCmd     `cmd:"" help:"Print or make the outbox table alone."`
	Cleanup    cleanupCmd    `cmd:"" help:"Remove rows that are in Kafka and old; make and drop partitions."`
	Recover    recoverCmd    `cmd:"" help:"Bring a relay back whose slot or checkpoint is lost, with every row that is still there."`
	Pause      pauseCmd      `cmd:"" help:"Have the relay hold its slot and send nothing."`
	Resume     resumeCmd     `cmd:"" help:"Let a paused relay go on."`
	Checkpoint checkpointCmd `cmd:"" help:"Look at the relay's position in Kafka."`
	Config     configCmd     `cmd:"" help:"Look at the settings."`
	Probe      probeCmd      `cmd:"" help:"Ask a relay on this host how it is, as a health check."`
	Version    versionCmd    `cmd:"" help:"Print what was built."`

	DemoPostgres demoPostgresCmd `cmd:"" hidden:""`
}

// process is what a run is given by its surroundings.
type process struct {
	args    []string
	environ []string
	signals <-chan os.Signal
	exit    func(int) // ends the process at once
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
}

// app is what a command is given.
type app struct {
	process
	ctx    context.Context // ends at the first interrupt
	format string
	loader *config.Loader
}

// settings returns the configuration, or everything that is wrong with it, and
// the logger that it asks for. What is odd about it is logged.
func (a *app) settings(needs ...config.Need) (config.Config, zerolog.Logger, error) {
	cfg, err := a.loader.Load(needs...)
	if err != nil {
		return cfg, zerolog.Nop(), err
	}
	log := newLogger(a.stderr, cfg.Log, terminal(a.stderr), a.environ)
	for _, w := range a.loader.Warnings() {
		log.Warn().Str("component", "config").Str("hint", w.Fix).Msg(w.Detail)
	}
	return cfg, log, nil
}

// errHelp ends the parsing of a command line that asked for help.
var errHelp = errors.New("help was asked for")

// newParser reads a command line into a grammar, with the settings of a loader.
func newParser(p process, cli *grammar, loader *config.Loader) (*kong.Kong, error) {
	return kong.New(cli, append(loader.Options(),
		kong.Name("outbox-relay"),
		kong.Description("Relays committed rows of a Postgres outbox table to Kafka, exactly once.\n\n"+
			"A setting is a flag, a variable and a key of a file, all of one name: `serve --help` lists them, `config show` prints their values."),
		kong.NoDefaultHelp(),
		kong.Writers(p.stdout, p.stderr),
		kong.Help(helpPrinter(loader)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true, WrapUpperBound: 100}),
	)...)
}

// run is the whole program; it returns the exit status.
func run(p process) int {
	var cli grammar
	loader := config.NewLoader(p.environ)
	parser, err := newParser(p, &cli, loader)
	if err != nil {
		return report(p.stderr, wantsJSON(p.args), fault.Wrap(err, fault.Runtime, "build the command line"))
	}
	parsed, err := parser.Parse(p.args)
	switch {
	case errors.Is(err, errHelp):
		return 0
	case err != nil:
		// The library's text is its answer to what was typed, hints included.
		return report(p.stderr, wantsJSON(p.args), fault.New(fault.CommandLine, "%s", err).WithFix("%s --help", meant(err)))
	}

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan struct{})
	defer close(ended)
	interrupted := watch(p.signals, ended, stop, p.exit)
	err = withGrace(ctx, parsed.Command(), func() error {
		return parsed.Run(&app{process: p, ctx: ctx, format: cli.Output, loader: loader})
	})
	if err != nil && errors.Is(err, context.Canceled) {
		if status := interrupted(); status != 0 {
			return status // it was told to stop before it was done
		}
	}
	return report(p.stderr, cli.Output == formatJSON, err)
}

// stopGrace is how long a command that was told to stop may take to notice.
const stopGrace = 3 * time.Second

// withGrace runs a command, and leaves it behind if it does not come to an end
// that it was told to come to: the Kafka client does not hear of the end of a
// context while a connection is being made (broker.waitResp in kgo 1.22.2). What
// a command changes is safe against being killed, so it is against this. Those
// that have something to finish keep their own time.
func withGrace(ctx context.Context, command string, run func() error) error {
	name, _, _ := strings.Cut(command, " ")
	if slices.Contains([]string{"serve", "pipeline", "demo", "demo-postgres"}, name) {
		return run()
	}
	done := make(chan error, 1)
	go func() { done <- run() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(stopGrace):
		return ctx.Err()
	}
}

// meant is the command up to which a command line could be read.
func meant(err error) string {
	name := "outbox-relay"
	if bad := (*kong.ParseError)(nil); errors.As(err, &bad) && bad.Context != nil {
		for _, p := range bad.Context.Path {
			if p.Command != nil {
				name = p.Command.FullPath()
			}
		}
	}
	return name
}

// wantsJSON looks for the output format in a command line that did not parse.
func wantsJSON(args []string) bool {
	line := " " + strings.Join(args, " ") + " "
	return slices.ContainsFunc([]string{"-o json", "-ojson", "-o=json", "--output json", "--output=json"}, func(form string) bool {
		return strings.Contains(line, " "+form+" ")
	})
}
