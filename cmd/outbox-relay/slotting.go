package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/size"
	"github.com/holdwall/outbox-relay/internal/slots"
	"github.com/holdwall/outbox-relay/replication"
)

const (
	// askPatience bounds what a look at a slot waits for Kafka, which is often
	// what is missing when somebody looks.
	askPatience = 3 * time.Second
	// createPatience bounds the creation of a slot, which waits for every open
	// transaction of the server.
	createPatience = 2 * time.Minute
)

// slotting is one command on slots.
type slotting struct {
	*app
	parts *parts
}

func (a *app) onSlots(do func(*slotting) error, needs ...config.Need) error {
	cfg, log, err := a.settings(needs...)
	if err != nil {
		return err
	}
	return do(&slotting{app: a, parts: newParts(cfg, log).once()})
}

// named is the slot that is meant, by default the relay's own.
func (s *slotting) named(slot string) string {
	if slot == "" {
		return s.parts.cfg.Outbox.Slot
	}
	return slot
}

// desk opens the database, with the stronger credentials for a change.
func (s *slotting) desk(change bool, do func(*slots.Desk, *replication.Server) error) error {
	src, err := s.parts.sourceConfig(change)
	if err != nil {
		return err
	}
	srv, err := replication.Connect(s.ctx, src)
	if err != nil {
		return err
	}
	defer srv.Close()
	id, err := srv.Identify(s.ctx)
	if err != nil {
		return err
	}
	return do(&slots.Desk{
		Conn: srv.Conn(), Slot: s.parts.cfg.Outbox.Slot, Publication: s.parts.cfg.Outbox.Publication, Identity: id, Ask: s.parts.askCheckpoint(),
	}, srv)
}

// askCheckpoint asks Kafka how far the relay has come, and gives up soon. It is
// nil if no Kafka is configured.
func (p *parts) askCheckpoint() slots.Asking {
	if len(p.cfg.Kafka.Client.Brokers) == 0 {
		return nil
	}
	return func(ctx context.Context) (checkpoint.State, error) {
		ctx, cancel := context.WithTimeout(ctx, askPatience)
		defer cancel()
		if err := p.reach(ctx, "inspect"); err != nil {
			return checkpoint.State{}, err
		}
		log, err := p.checkpointLog()
		if err != nil {
			return checkpoint.State{}, err
		}
		state, err := log.Peek(ctx)
		if err = kafka.Classify("read checkpoint", err); fault.Has(err, fault.KafkaTopicMissing) {
			return checkpoint.State{}, nil
		}
		return state, err
	}
}

func (s *slotting) print(sql ...string) error {
	if s.format == formatJSON {
		return writeJSON(s.stdout, map[string]any{"sql": sql})
	}
	for _, q := range sql {
		fmt.Fprintf(s.stdout, "%s;\n", q)
	}
	return nil
}

func (s *slotting) list(c *slotListCmd) error {
	if c.PrintSQL {
		return s.print(slots.ListSQL)
	}
	return s.desk(false, func(d *slots.Desk, _ *replication.Server) error {
		all, err := d.List(s.ctx)
		if err != nil {
			return err
		}
		if s.format == formatJSON {
			return writeJSON(s.stdout, all)
		}
		w := tabwriter.NewWriter(s.stdout, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "SLOT\tDATABASE\tPLUGIN\tACTIVE\tWAL STATUS\tRETAINED\tNOT CONFIRMED\tCONFIRMED")
		for _, v := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\t%t\t%s\t%s\t%s\t%s\n", v.Name, v.Database, v.Plugin, v.Active, v.WALStatus,
				size.Of(v.RetainedBytes), size.Of(v.LagBytes), v.ConfirmedLSN)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(s.stdout, "\nSQL:\n%s;\n", slots.ListSQL)
		return nil
	})
}

func (s *slotting) inspect(c *slotInspectCmd) error {
	name := s.named(c.Slot)
	if c.PrintSQL {
		return s.print(slots.InspectSQL(name), slots.HolderSQL(name), slots.LimitSQL)
	}
	return s.desk(false, func(d *slots.Desk, _ *replication.Server) error {
		v, err := d.Inspect(s.ctx, name, c.Watch)
		if err != nil {
			return err
		}
		if s.format == formatJSON {
			return writeJSON(s.stdout, v)
		}
		return writeSlot(s.stdout, v)
	})
}

func writeSlot(out io.Writer, v slots.View) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "slot\t%s (%s, database %s)\n", v.Name, v.Plugin, v.Database)
	fmt.Fprintf(w, "held by\t%s\n", orNobody(v.Holder))
	if !v.Active && v.IdleSince != nil {
		fmt.Fprintf(w, "\tsince %s\n", v.IdleSince.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(w, "WAL status\t%s\n", v.WALStatus)
	limit := "no limit (max_slot_wal_keep_size = -1)"
	if v.LimitBytes != nil {
		limit = "of at most " + size.Of(*v.LimitBytes)
	}
	fmt.Fprintf(w, "retained WAL\t%s, %s (from %s to %s)\n", size.Of(v.RetainedBytes), limit, v.RestartLSN, v.CurrentLSN)
	lag := ""
	if v.LagSeconds != nil {
		lag = ", " + slots.Span(time.Duration(*v.LagSeconds*float64(time.Second)))
	}
	fmt.Fprintf(w, "not confirmed\t%s%s (from %s)\n", size.Of(v.LagBytes), lag, v.ConfirmedLSN)
	switch {
	case v.Checkpoint != "":
		fmt.Fprintf(w, "in Kafka\tall up to %s\n", v.Checkpoint)
	case v.CheckpointError != "":
		fmt.Fprintf(w, "in Kafka\tnot known: %s\n", v.CheckpointError)
	}
	average := ""
	if v.AverageRate != nil {
		average = fmt.Sprintf(", %s/s on average", size.Of(int64(*v.AverageRate)))
	}
	fmt.Fprintf(w, "WAL written\t%s/s now%s\n", size.Of(int64(v.Rate)), average)
	if v.SafeBytes != nil {
		fmt.Fprintf(w, "until lost\t%s of further WAL\n", size.Of(*v.SafeBytes))
	}
	fmt.Fprintf(w, "if nothing is done\t%s\n", v.Outlook.Text)
	fmt.Fprintf(w, "next\t%s\n", v.Outlook.Next)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nSQL:")
	for _, q := range v.SQL {
		fmt.Fprintf(out, "%s;\n", q)
	}
	return nil
}

// createSQL is the statement for a server of the given version.
func (s *slotting) createSQL(version int) (string, error) {
	src, err := s.parts.sourceConfig(true)
	return src.CreateSlotSQL(version), err
}

func (s *slotting) create(c *slotCreateCmd) error {
	if c.PrintSQL {
		sql, err := s.createSQL(presumedVersion)
		if err != nil {
			return err
		}
		return s.print(sql)
	}
	return s.desk(true, func(d *slots.Desk, srv *replication.Server) error {
		sql, err := s.createSQL(srv.Version())
		if err != nil {
			return err
		}
		plan, err := d.PlanCreate(s.ctx, sql)
		if err != nil {
			return err
		}
		if err := srv.Check(s.ctx); err != nil {
			return err // a publication made after the slot leaves a hole
		}
		return s.change(d, plan, c.slotMeant)
	})
}

func (s *slotting) advance(c *slotAdvanceCmd) error {
	name := s.named(c.Slot)
	if c.PrintSQL {
		to := c.To
		if to == "checkpoint" {
			to = "<position of outbox-relay checkpoint show>"
		}
		return s.print(slots.AdvanceSQL(name, to, 0))
	}
	return s.desk(true, func(d *slots.Desk, _ *replication.Server) error {
		plan, err := d.PlanAdvance(s.ctx, name, c.To)
		if err != nil {
			return err
		}
		return s.change(d, plan, c.slotMeant)
	})
}

func (s *slotting) drop(c *slotDropCmd) error {
	name := s.named(c.Slot)
	if c.PrintSQL {
		return s.print(slots.DropSQL(name, 0))
	}
	return s.desk(true, func(d *slots.Desk, _ *replication.Server) error {
		plan, err := d.PlanDrop(s.ctx, name)
		if err != nil {
			return err
		}
		return s.change(d, plan, c.slotMeant)
	})
}

// change carries a change out for somebody who means it.
func (s *slotting) change(d *slots.Desk, c slots.Change, meant slotMeant) error {
	name := meant.Yes
	if name == "" && (c.Price == "" || meant.AcceptGap != "") {
		for _, f := range c.Facts {
			fmt.Fprintln(s.stderr, f)
		}
		var err error
		if name, err = s.typed(c.Verb, c.Slot); err != nil {
			return err
		}
	}
	if err := c.Check(name, meant.AcceptGap); err != nil {
		return err
	}
	if s.format != formatJSON {
		fmt.Fprintf(s.stdout, "SQL:\n%s;\n", c.SQL)
	}
	ctx, cancel := context.WithTimeout(s.ctx, createPatience)
	defer cancel()
	if err := d.Do(ctx, &c); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fault.Wrap(err, fault.PostgresUnreachable, "%s slot %s within %s", c.Verb, c.Slot, createPatience).
				WithWhy("creating a slot waits for every open transaction of the server").
				WithFix("SELECT pid, xact_start, query FROM pg_stat_activity WHERE xact_start < now() - interval '1 minute'; then run the command again")
		}
		return err
	}
	if s.format == formatJSON {
		return writeJSON(s.stdout, c)
	}
	switch c.Verb {
	case "drop":
		fmt.Fprintf(s.stdout, "slot %s is dropped\n", c.Slot)
	default:
		fmt.Fprintf(s.stdout, "slot %s stands at %s\n", c.Slot, c.Done)
	}
	if c.Next != "" {
		fmt.Fprintf(s.stdout, "next: %s\n", c.Next)
	}
	return nil
}

// typed asks somebody at a terminal for the slot's name. Elsewhere nobody is
// asked, and nothing is answered.
func (s *slotting) typed(verb, slot string) (string, error) {
	in, ok := s.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return "", nil
	}
	fmt.Fprintf(s.stderr, "type the slot's name to %s %s: ", verb, slot)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fault.Wrap(err, fault.Runtime, "read the slot's name")
	}
	return strings.TrimSpace(line), nil
}
