// Package audit compares an outbox table with the topics that its relay writes,
// on production data: no oracle, no slot of its own that somebody would have to
// keep, and no more memory than a bounded part of the whole.
//
// It goes three ways:
//
//  1. The table is read once, in one snapshot. Each row is turned into the
//     record that the relay makes of it, by the relay's own decoder and router.
//  2. The topics that these records belong to, and that of the dead letters, are
//     read read_committed up to the high watermarks after the first step.
//  3. Both sides are compared by id.
//
// What either side holds is reduced to an entry of about 90 bytes (the id, hashes
// of topic, key, value and headers, and where it is) and spread over 256 files by
// a hash of the id. The third step reads one file at a time. So 100 million rows
// and as many records take about 18 GB of temporary disk, and memory grows by less
// than two bytes for each entry: a million of each took 175 MB, 100 million should
// take about 500 MB. Small tables never touch the disk.
//
// Invariants:
//
//   - A row counts as missing only if it was the relay's to publish: its commit
//     lies before the checkpoint. Every row of the snapshot committed before the
//     WAL position that is read in it; if the checkpoint has not come that far,
//     the transactions between are read from a temporary copy of the slot, which
//     moves nothing.
//   - Nothing is written to Kafka and nothing is changed in Postgres. The
//     snapshot is given back as soon as the table is read.
//   - No payload, key or header value is kept or reported, only hashes and ids.
//
// It leaves to others: what to do about a finding (docs/errors.md), the proof of
// the delivery protocol under faults (internal/verify), printing (cmd).
package audit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/sink"
)

// Config says what is compared with what.
type Config struct {
	Conn     *pgx.Conn // with the session settings of package replication
	SystemID string    // of that server
	Timeline int32
	Table    outbox.Table
	Columns  outbox.Columns
	Shape    []outbox.Column // the table as the catalog has it

	Slot, Publication string

	Kafka      []kgo.Opt
	Router     sink.RouterConfig // the relay's
	Letters    string            // topic of the dead letters
	Checkpoint *checkpoint.Log

	// Since leaves out what was created before; zero leaves out nothing.
	Since time.Time
	// Examples is how many findings of each kind are described.
	Examples int
	// Wait is how long a running relay may take to come up to the snapshot.
	Wait time.Duration
	// Stall is how long a topic may give nothing before that is an error.
	Stall time.Duration
	// TempDir is where the files go; "" is the system's place.
	TempDir string
	// Progress is called often, by one goroutine; nil is nobody.
	Progress func(Progress)
}

// Progress is how far a step has come. A Total of 0 is not known.
type Progress struct {
	Step        string // table, topics or compare
	Done, Total int64
}

// Run compares. The error is about what kept it from comparing; what it found is
// in the report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	// Records have milliseconds; a row must not fall between two of them.
	cfg.Since = cfg.Since.Truncate(time.Millisecond)
	timed := slices.ContainsFunc(cfg.Shape, func(c outbox.Column) bool { return c.Name == cfg.Columns.CreatedAt })
	if !cfg.Since.IsZero() && !timed {
		return nil, fault.New(fault.CommandLine, "--since cannot be used").
			WithWhy("table %s has no column %q to tell the age of a row", cfg.Table, cfg.Columns.CreatedAt).WithFix("leave it out")
	}
	s, err := newStore(cfg.TempDir)
	if err != nil {
		return nil, fault.Wrap(err, fault.Runtime, "make temporary files")
	}
	defer s.close()
	a := &audit{cfg: cfg, store: s, report: &Report{Since: cfg.Since}, topics: map[string]*topic{}}
	for _, step := range []func(context.Context) error{a.readTable, a.settle, a.readTopics, a.compare} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("compare table and topics: %w", context.Cause(ctx))
			}
			return nil, err
		}
	}
	return a.report, nil
}

// audit is one comparison under way.
type audit struct {
	cfg    Config
	store  *store
	report *Report

	snapshot pglogrepl.LSN     // every row read committed before it
	topics   map[string]*topic // that rows belong to
	byHash   map[uint64]*topic
	letters  *topic

	// undecided: what lies between checkpoint and snapshot could not be read,
	// so a row that is not found may still come.
	undecided bool

	search *searching // of Find; nil in a comparison
}

func (a *audit) progress(step string, done, total int64) {
	if a.cfg.Progress != nil {
		a.cfg.Progress(Progress{Step: step, Done: done, Total: total})
	}
}

// every is how many entries lie between two calls of Progress.
const every = 4096

// settle finds out how far the relay owes the rows of the snapshot: it waits a
// while for a relay that runs, and otherwise notes what is still to come.
func (a *audit) settle(ctx context.Context) error {
	deadline := time.Now().Add(a.cfg.Wait)
	for {
		state, err := a.cfg.Checkpoint.Peek(ctx)
		if err != nil {
			return kafka.Classify("read checkpoint", err)
		}
		c := state.Last
		if c == nil {
			return fault.New(fault.NotInitialised, "topic %s holds no checkpoint of relay %s", a.cfg.Checkpoint.Topic, a.cfg.Checkpoint.Name)
		}
		if c.Source.SystemID != a.cfg.SystemID {
			return fault.New(fault.IdentityChanged, "the checkpoint is of system %s, and the database of %s", c.Source.SystemID, a.cfg.SystemID)
		}
		a.report.Checkpoint, a.report.CheckpointSeq = c.Pos, c.Seq
		if c.Pos.EndLSN >= a.snapshot && !c.Pos.Cut() {
			return nil
		}
		active, err := a.active(ctx)
		if err != nil {
			return err
		}
		if !active || time.Now().After(deadline) {
			return a.pending(ctx, c.Pos)
		}
		select {
		case <-time.After(a.cfg.Wait / 50):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// active tells whether a relay streams.
func (a *audit) active(ctx context.Context) (bool, error) {
	var active bool
	err := a.cfg.Conn.QueryRow(ctx, `SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = $1`, a.cfg.Slot).Scan(&active)
	if err != nil {
		return false, fault.Wrap(err, fault.PostgresLost, "look at slot %s", a.cfg.Slot)
	}
	return active, nil
}
