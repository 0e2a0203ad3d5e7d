package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/cleanup"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// clean removes what may go, once or again and again.
func (c *cleanupCmd) clean(a *app, p *parts) error {
	if c.MaxRows < 0 || c.Pause < 0 || c.Wait < 0 || c.Every < time.Second {
		return fault.New(fault.CommandLine, "--max-rows, --pause and --wait are not negative, and --every is at least 1s")
	}
	src, err := p.sourceConfig(true)
	if err != nil {
		return err
	}
	// The horizons that wait for the relay are kept over a lost connection.
	var srv *replication.Server
	defer func() {
		if srv != nil {
			srv.Close()
		}
	}()
	var cleaner *cleanup.Cleaner
	for {
		if srv == nil {
			if srv, err = replication.Connect(a.ctx, src); err == nil {
				cleaner = c.cleaner(a, p, srv)
				p.warnOfDeletes(a.ctx, srv)
			}
		}
		if err == nil {
			err = c.once(a, cleaner)
		}
		switch {
		case !c.Watch:
			return err
		case a.ctx.Err() != nil:
			return nil
		case err != nil:
			f := fault.As(err)
			if f.Code.Class == fault.Usage {
				return err
			}
			p.log.Warn().Fields(f.Fields()).Err(err).Msg("nothing was cleaned")
			if f.Code != fault.CleanupBehind && srv != nil {
				srv.Close()
				srv = nil
			}
			err = nil
		}
		select {
		case <-time.After(c.Every):
		case <-a.ctx.Done():
			return nil
		}
	}
}

func (c *cleanupCmd) cleaner(a *app, p *parts, srv *replication.Server) *cleanup.Cleaner {
	bar := newProgress(a.stderr, terminal(a.stderr))
	o, set := p.cfg.Outbox, p.cfg.Cleanup
	cfg := cleanup.Config{
		Table: p.table, CreatedAt: o.Columns.CreatedAt, Slot: o.Slot, Covered: p.covered(),
		Retention: set.Retention, Interval: set.Interval, Ahead: set.Ahead,
		Patience: c.Wait, MaxRows: c.MaxRows, Pause: c.Pause, DryRun: c.DryRun,
		Progress: func(done, total int64) {
			if bar.at("cleanup", done, total); done == total {
				bar.end()
			}
		},
	}
	cfg.Did = func(sql string) {
		if a.format != formatJSON && (c.DryRun || p.log.Debug().Enabled()) {
			fmt.Fprintf(a.stdout, "%s;\n", sql)
		}
	}
	return cleanup.New(srv.Conn(), cfg)
}

// covered asks Kafka up to where it has all events. It is nil if no Kafka is
// configured.
func (p *parts) covered() func(context.Context) (pglogrepl.LSN, error) {
	ask := p.askCheckpoint()
	if ask == nil {
		return nil
	}
	return func(ctx context.Context) (pglogrepl.LSN, error) {
		state, err := ask(ctx)
		switch {
		case err != nil:
			return 0, err
		case state.Last == nil:
			return 0, fault.New(fault.CheckpointMissing, "topic %s has no checkpoint of relay %s", p.cfg.Kafka.CheckpointTopic, p.cfg.Outbox.Name)
		}
		return state.Last.Pos.EndLSN, nil
	}
}

// warnOfDeletes tells of a publication that publishes what cleanup does.
func (p *parts) warnOfDeletes(ctx context.Context, srv *replication.Server) {
	var deletes bool
	err := srv.Conn().QueryRow(ctx, `SELECT pubdelete OR pubtruncate FROM pg_publication WHERE pubname = $1`, p.cfg.Outbox.Publication).Scan(&deletes)
	if err != nil || !deletes {
		return // what is wrong with the publication is for others to tell
	}
	f := fault.New(fault.CleanupDeletes, "publication %s", p.cfg.Outbox.Publication).
		WithFix("ALTER PUBLICATION %s SET (publish = 'insert')", pgx.Identifier{p.cfg.Outbox.Publication}.Sanitize())
	p.log.Warn().Fields(f.Fields()).Msg(f.Error())
}

// once is one run and what is said about it.
func (c *cleanupCmd) once(a *app, cleaner *cleanup.Cleaner) error {
	r, err := cleaner.Run(a.ctx)
	if err != nil && (r.HorizonLSN == "" && len(r.Created) == 0 || errors.Is(err, context.Canceled)) {
		return err
	}
	if a.format == formatJSON {
		if werr := writeJSON(a.stdout, r); werr != nil {
			return werr
		}
		return err
	}
	writeCleanup(a.stdout, r)
	return err
}

func writeCleanup(out io.Writer, r cleanup.Result) {
	verb := map[bool]string{false: "", true: "would be "}[r.DryRun]
	for _, w := range r.Warnings {
		fmt.Fprintln(out, w)
	}
	for _, name := range r.Created {
		fmt.Fprintf(out, "partition %s %smade\n", name, verb)
	}
	for _, name := range r.Dropped {
		fmt.Fprintf(out, "partition %s %sdropped\n", name, verb)
	}
	for _, k := range r.Kept {
		fmt.Fprintf(out, "partition %s stays: %s\n", k.Partition, k.Why)
	}
	if r.Skipped > 0 {
		fmt.Fprintf(out, "%d pages were passed over, because somebody holds a row in them\n", r.Skipped)
	}
	if r.HorizonLSN == "" {
		return
	}
	fmt.Fprintf(out, "%s rows %sdeleted: made before %s, by transactions that Kafka has, which it does up to %s\n",
		thousands(r.Rows), verb, r.Cutoff.Format(time.RFC3339), r.HorizonLSN)
	if r.More {
		fmt.Fprintln(out, "there may be more: the run has stopped at --max-rows")
	}
}
