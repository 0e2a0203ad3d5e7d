package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/explain"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/size"
	"github.com/holdwall/outbox-relay/internal/slots"
	"github.com/holdwall/outbox-relay/replication"
)

// explain says where an event is.
func (c *explainCmd) explain(a *app, p *parts) error {
	if c.Wait < 0 || c.Timeout <= 0 {
		return fault.New(fault.CommandLine, "--wait is not negative, and --timeout is more than nothing")
	}
	ctx, cancel := context.WithTimeout(a.ctx, c.Timeout)
	defer cancel()
	src, err := p.sourceConfig(false)
	if err != nil {
		return err
	}
	srv, err := replication.Connect(ctx, src)
	if err != nil {
		return err
	}
	defer srv.Close()
	if err := p.reach(ctx, "explain"); err != nil {
		return err
	}
	opts, err := p.client("explain")
	if err != nil {
		return err
	}
	desk, err := newLetterDesk(p, "")
	if err != nil {
		return err
	}
	bar := newProgress(a.stderr, terminal(a.stderr))
	k := p.cfg.Kafka
	ans, err := explain.Run(ctx, explain.Config{
		ID: c.ID, Server: srv, Slot: p.cfg.Outbox.Slot, Table: p.table, Columns: p.cfg.Outbox.Columns,
		Events: k.EventsTopic, Template: p.cfg.Outbox.TopicTemplate, Topics: c.Topic, DLQ: k.DLQTopic, Brokers: strings.Join(k.Client.Brokers, ","),
		Kafka: opts, Patience: c.Wait, Letters: func(ctx context.Context) ([]explain.Letter, error) { return desk.lettersOf(ctx, c.ID) },
		Progress: func(done, total int64) { bar.at("topics", done, total) },
	})
	bar.end()
	if err != nil {
		return p.trace.Explain(err)
	}
	if a.format == formatJSON {
		err = writeJSON(a.stdout, ans)
	} else {
		err = writeAnswer(a.stdout, ans)
	}
	if err != nil {
		return err
	}
	return ans.Fault()
}

// lettersOf returns the letters of an event, with what was done with them.
func (d *letterDesk) lettersOf(ctx context.Context, id string) ([]explain.Letter, error) {
	var all []explain.Letter
	f := dlq.Filter{IDs: []string{id}}
	err := d.replayer.View.Letters(ctx, func(i *dlq.Item) error {
		if f.Match(i) {
			v := viewOfLetter(i)
			all = append(all, explain.Letter{
				State: v.State, Reason: v.Reason, Code: v.Code, Group: v.Group, Time: v.Time,
				Partition: v.Letter.Partition, Offset: v.Letter.Offset, Marks: []explain.Mark{},
			})
		}
		return nil
	}, func(dlq.Spot, error) {})
	if err != nil && !fault.Has(err, fault.KafkaTopicMissing) {
		return nil, err
	}
	if len(all) == 0 {
		return nil, nil
	}
	marks, err := d.replayer.View.Marks(ctx, id)
	if err != nil {
		return nil, err
	}
	for i := range all {
		for _, m := range marks {
			if m.Group == all[i].Group {
				v := viewOfMark(&m)
				all[i].Marks = append(all[i].Marks, explain.Mark{Action: v.Action, Time: v.Time, By: v.By, Topic: v.Topic, Code: v.Code})
			}
		}
	}
	return all, nil
}

func writeAnswer(out io.Writer, a explain.Answer) error {
	fmt.Fprintf(out, "%s: %s\n\n", a.Verdict, a.Text)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	if r := a.Row; r != nil {
		age := ""
		if r.CreatedAt != nil {
			age = fmt.Sprintf(", made %s (%s ago)", r.CreatedAt.UTC().Format(time.RFC3339Nano), slots.Span(time.Since(*r.CreatedAt)))
		}
		fmt.Fprintf(w, "row\t%s %s, transaction %d%s\n", r.Table, r.CTID, r.XID, age)
		if r.CommitTime != nil {
			fmt.Fprintf(w, "committed\t%s\n", r.CommitTime.UTC().Format(time.RFC3339Nano))
		}
	} else {
		fmt.Fprintln(w, "row\tthere is none")
	}
	if s := a.Slot; s != nil {
		fmt.Fprintf(w, "slot\t%s stands at %s, %s before the end of the WAL at the look\n", s.Name, s.Confirmed, size.Of(s.LeftBytes))
	}
	for _, r := range a.Records {
		fmt.Fprintf(w, "record\t%s partition %d offset %d, %s\n", r.Topic, r.Partition, r.Offset, r.Time.Format(time.RFC3339Nano))
		fmt.Fprintf(w, "\ttransaction %s, commit at %s on %s\n", r.XID, r.LSN, r.CommitTime)
		fmt.Fprintf(w, "\tKafka transaction of checkpoint %s, from %s\n", r.Checkpoint, r.Source)
		if r.Replayed != "" {
			fmt.Fprintf(w, "\treplayed %s\n", r.Replayed)
		}
		if r.Recovered != "" {
			fmt.Fprintf(w, "\trecovered %s\n", r.Recovered)
		}
	}
	for _, l := range a.Letters {
		fmt.Fprintf(w, "dead letter\t%s, %s %s, %s, partition %d offset %d\n", l.State, l.Code, l.Reason, l.Time.UTC().Format(time.RFC3339), l.Partition, l.Offset)
		for _, m := range l.Marks {
			fmt.Fprintf(w, "\t%s %s by %s %s\n", m.Time.UTC().Format(time.RFC3339), m.Action, m.By, m.Code)
		}
	}
	fmt.Fprintf(w, "searched\t%s (%s records)\n", strings.Join(a.Topics, ", "), thousands(a.Scanned))
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range a.Steps {
		fmt.Fprintf(out, "\n# %s\n", s.What)
		if s.SQL != "" {
			fmt.Fprintf(out, "%s;\n", s.SQL)
		}
		if s.Command != "" {
			fmt.Fprintln(out, s.Command)
		}
	}
	return nil
}
