package main

import (
	"context"
	"fmt"
	"io"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/provision"
)

// takeOver begins a relay where the former reader of a slot stopped, or only
// prints what that would be.
func takeOver(ctx context.Context, cfg config.Config, want provision.TakeOver, dryRun bool, out io.Writer, format string, log zerolog.Logger) error {
	p := newParts(cfg, log).once()
	plan, err := p.plan()
	if err != nil {
		return err
	}
	if err := p.reach(ctx, "init"); err != nil {
		return err
	}
	if dryRun {
		s, err := plan.Survey(ctx)
		if err != nil {
			return p.trace.Explain(err)
		}
		if format == formatJSON {
			return writeJSON(out, surveyJSON(s))
		}
		printSurvey(out, s, plan.Topics)
		return nil
	}
	done, err := plan.TakeOver(ctx, want)
	if err != nil {
		return p.trace.Explain(err)
	}
	if format == formatJSON {
		return writeJSON(out, map[string]any{
			"created": done.Created, "slot": want.Slot, "lsn": done.Position.String(), "checkpoint_seq": done.Checkpoint.Seq,
		})
	}
	if !done.Created {
		fmt.Fprintf(out, "taken over before: slot %s at %s, checkpoint %d at %s\n", want.Slot, done.Position, done.Checkpoint.Seq, done.Checkpoint.Pos)
		return nil
	}
	fmt.Fprintf(out, "taken over: slot %s at %s, first checkpoint in %s\nnext: outbox-relay serve\n", want.Slot, done.Position, cfg.Kafka.CheckpointTopic)
	return nil
}

func surveyJSON(s provision.Survey) map[string]any {
	return map[string]any{
		"slot": s.Slot, "lsn": s.At.String(), "lag_bytes": s.LagBytes, "holder": s.SlotHolder, "failover": s.Failover,
		"publication": s.Publication, "publication_tables": s.Tables, "publication_all_tables": s.AllTables,
		"pending_rows": s.Ahead.Rows, "pending_more": s.Ahead.More, "done": s.Done != nil, "command": s.Command(),
	}
}

func printSurvey(out io.Writer, s provision.Survey, topics []provision.Topic) {
	line := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	if s.Done != nil {
		line("taken over before: checkpoint %d at %s, slot %s at %s", s.Done.Seq, s.Done.Pos, s.Slot, s.At)
		return
	}
	line("slot         %s at %s, %d bytes of WAL behind it", s.Slot, s.At, s.LagBytes)
	if s.SlotHolder != "" {
		line("             read by %s", s.SlotHolder)
	}
	line("publication  %s, which stays", s.Publication)
	if s.AllTables || s.Tables > 1 {
		line("             it publishes %d tables; the relay is sent all of them and drops what is not the outbox", s.Tables)
	}
	if s.SlotHolder == "" {
		more := ""
		if s.Ahead.More {
			more = " or more"
		}
		line("comes first  %d%s outbox rows that the slot has not confirmed", s.Ahead.Rows, more)
	}
	line("")
	line("What is done, in this order; nothing is dropped, and slot and publication are not changed:")
	n := 0
	step := func(format string, args ...any) { n++; line("%d. "+format, append([]any{n}, args...)...) }
	if s.SlotHolder != "" {
		step("YOU stop the program that reads the slot, so that nothing restarts it, and print this plan again")
	}
	step("the slot is held, and is still at %s", s.At)
	for _, t := range topics {
		step("unless it exists: %s", t)
	}
	step("the first checkpoint is written at %s: what committed below it is the former reader's and is not sent", s.At)
	step("YOU start outbox-relay serve, which sends what committed at %s and later", s.At)
	line("")
	line("The seam: whoever read the slot may have sent more than it confirmed. Those rows are sent again, with the")
	line("same id in the header `id`: consumers that skip ids which they know see nothing of it. From there on each")
	line("row is sent once.")
	if s.Version >= 170000 && !s.Failover {
		line("")
		line("The slot is no failover slot: it stays behind when a standby is promoted. See docs/migrate-from-debezium.md.")
	}
	if s.SlotHolder == "" {
		line("")
		line("%s", s.Command())
	}
}
