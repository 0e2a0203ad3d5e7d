package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// errEnough ends a reading that has found what it looked for.
var errEnough = errors.New("enough letters")

// sheet is how many lines of a table are lined up together: a long list is
// shown as it is read.
const sheet = 100

// list shows letters, with -o json one object to a line.
func (d *letterDesk) list(ctx context.Context, f dlq.Filter, most int, out, notes io.Writer, format string) error {
	if err := d.reach(ctx, "dlq"); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	n := 0
	err := d.replayer.View.Letters(ctx, func(i *dlq.Item) error {
		if !f.Match(i) {
			return nil
		}
		if n == most && most > 0 {
			return errEnough
		}
		v := viewOfLetter(i)
		if n++; format == formatJSON {
			return lines.Encode(v)
		}
		if n%sheet == 1 {
			if err := w.Flush(); err != nil {
				return err
			}
			fmt.Fprintln(w, "TIME\tID\tAGGREGATE\tTYPE\tREASON\tCODE\tTOPIC\tATTEMPTS\tNEXT RETRY\tSTATE")
		}
		state := v.State
		if v.Group != "" {
			state += " (" + cell(v.Group, 40) + ")"
		}
		_, err := fmt.Fprintf(w, "%s\t%s\t%s:%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", when(&v.Time), cell(v.ID, 64), cell(v.AggregateType, 40), cell(v.AggregateID, 64),
			cell(v.Type, 40), cell(v.Reason, 40), cell(v.Code, 10), cell(v.Topic, 60), v.Attempts, when(v.NextRetry), state)
		return err
	}, d.malformed(notes))
	if ferr := w.Flush(); err == nil {
		err = ferr
	}
	if errors.Is(err, errEnough) {
		fmt.Fprintf(notes, "there are more than %d; --max 0 shows all\n", most)
		err = nil
	}
	if err == nil && n == 0 {
		fmt.Fprintln(notes, "no dead letter matches")
	}
	return err
}

// show shows all letters of one event, and what was done with them.
func (d *letterDesk) show(ctx context.Context, id string, content bool, out io.Writer, format string) error {
	if err := d.reach(ctx, "dlq"); err != nil {
		return err
	}
	var all []wholeView
	f := dlq.Filter{IDs: []string{id}}
	err := d.replayer.View.Letters(ctx, func(i *dlq.Item) error {
		if f.Match(i) {
			all = append(all, viewOfWhole(i, content))
		}
		return nil
	}, func(dlq.Spot, error) {})
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fault.New(fault.LetterUnknown, "no letter of event %.100q in topic %s", id, d.replayer.View.Topic)
	}
	marks, err := d.replayer.View.Marks(ctx, all[0].ID)
	if err != nil {
		return err
	}
	for i := range all {
		for _, m := range marks {
			if m.Group == all[i].Group {
				all[i].Marks = append(all[i].Marks, viewOfMark(&m))
			}
		}
	}
	if format == formatJSON {
		return writeJSON(out, all)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for i, v := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		v.print(w)
	}
	return w.Flush()
}

func (v *wholeView) print(w io.Writer) {
	const long = 2000
	fmt.Fprintf(w, "event\t%s\n", cell(v.ID, long))
	fmt.Fprintf(w, "state\t%s, %d attempts, next retry %s\n", v.State, v.Attempts, when(v.NextRetry))
	fmt.Fprintf(w, "aggregate\t%s:%s, %s\n", cell(v.AggregateType, long), cell(v.AggregateID, long), cell(v.Type, long))
	fmt.Fprintf(w, "reason\t%s: %s %s (%s, %s)\n", v.Reason, v.Code, cell(v.Message, long), cell(v.Stage, 60), cell(v.Component, 60))
	fmt.Fprintf(w, "meant for\t%s\n", cell(v.Topic, long))
	if v.Partition != nil {
		fmt.Fprintf(w, "partition\t%d\n", *v.Partition)
	}
	fmt.Fprintf(w, "time\t%s, first %s\n", when(&v.Time), when(&v.FirstTime))
	by := "relay " + v.Relay
	if v.Group != "" {
		by = "consumer group " + v.Group
	}
	fmt.Fprintf(w, "written by\t%s, version %s\n", cell(by, long), cell(v.RelayVersion, 60))
	if v.Source != nil {
		fmt.Fprintf(w, "read from\tpartition %d, offset %d\n", v.Source.Partition, v.Source.Offset)
	}
	fmt.Fprintf(w, "letter\t%s, partition %d, offset %d\n", v.Letter.Topic, v.Letter.Partition, v.Letter.Offset)
	if v.Omitted != nil {
		fmt.Fprintf(w, "left out\tpayload %t, key %t, headers %d, headers cut short %d: in the outbox table\n", v.Omitted.Payload, v.Omitted.Key, v.Omitted.Headers, v.Omitted.HeadersCut)
	}
	for _, h := range v.Headers {
		value := fmt.Sprintf("%d bytes", len(h.ValueBase64))
		if h.Value != nil {
			value = cell(*h.Value, long)
		}
		fmt.Fprintf(w, "header\t%s: %s\n", cell(h.Name, 200), value)
	}
	for _, m := range v.Marks {
		fmt.Fprintf(w, "mark\t%s at %s by %s, letter at %d/%d", m.Action, when(&m.Time), cell(m.By, 100), m.Letter.Partition, m.Letter.Offset)
		for _, t := range []struct{ name, text string }{{"to", m.Topic}, {"because", m.Because}, {"for", m.Code}} {
			if t.text != "" {
				fmt.Fprintf(w, ", %s %s", t.name, cell(t.text, long))
			}
		}
		if m.Next != nil {
			fmt.Fprintf(w, ", next retry %s", when(m.Next))
		}
		fmt.Fprintln(w)
	}
	c := v.contentView
	if c == nil {
		fmt.Fprintf(w, "key\t%d bytes\npayload\t%d bytes; --payload shows both\n", v.KeyBytes, v.PayloadBytes)
		return
	}
	if c.Key != nil {
		fmt.Fprintf(w, "key\t%s\n", cell(*c.Key, long))
	} else {
		fmt.Fprintf(w, "key\t%d bytes\n", v.KeyBytes)
	}
	switch raw := c.PayloadBase64; {
	case v.Tombstone:
		fmt.Fprintf(w, "payload\tnone: a tombstone\n")
	case c.Payload != nil:
		fmt.Fprintf(w, "payload\t\n%s\n", pretty(c.Payload))
	case json.Valid(raw):
		fmt.Fprintf(w, "payload\t\n%s\n", pretty(raw))
	default:
		fmt.Fprintf(w, "payload\t%d bytes, no JSON: %s\n", v.PayloadBytes, cell(string(raw), long))
	}
}

func pretty(raw []byte) []byte {
	var b bytes.Buffer
	if json.Indent(&b, raw, "", "  ") != nil {
		return raw
	}
	return b.Bytes()
}

// export writes letters, one to a line.
func (d *letterDesk) export(ctx context.Context, f dlq.Filter, content bool, file string, out, notes io.Writer) (err error) {
	if err := d.reach(ctx, "dlq"); err != nil {
		return err
	}
	if file != "" {
		// Letters may be private, and so is the file.
		fh, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fault.Wrap(err, fault.CommandLine, "--file").WithWhy("the file cannot be created").WithFix("name a file that does not exist, in a directory that does")
		}
		defer func() { err = errors.Join(err, fh.Close()) }()
		out = fh
	}
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	n := 0
	err = d.replayer.View.Letters(ctx, func(i *dlq.Item) error {
		if !f.Match(i) {
			return nil
		}
		n++
		return lines.Encode(viewOfWhole(i, content))
	}, d.malformed(notes))
	if err == nil {
		fmt.Fprintf(notes, "%d letters exported\n", n)
	}
	return err
}

// retry replays what is due, once or until stopped.
func (d *letterDesk) retry(ctx context.Context, watch bool, tick time.Duration, out io.Writer, format string) error {
	s := d.scheduler()
	s.Tick = tick
	if watch {
		return s.Run(ctx)
	}
	if err := d.reach(ctx, "dlq"); err != nil {
		return err
	}
	p, err := s.Once(ctx)
	if err != nil {
		return err
	}
	if format == formatJSON {
		v := map[string]any{"replayed": p.Replayed, "deferred": p.Deferred, "given_up": p.GivenUp, "refused": p.Refused, "waiting": p.Waiting}
		if !p.Next.IsZero() {
			v["next_retry"] = p.Next
		}
		return writeJSON(out, v)
	}
	fmt.Fprintf(out, "replayed %d, deferred %d, left to a person %d, refused %d; waiting %d", p.Replayed, p.Deferred, p.GivenUp, p.Refused, p.Waiting)
	if !p.Next.IsZero() {
		fmt.Fprintf(out, ", the next from %s", when(&p.Next))
	}
	_, err = fmt.Fprintln(out)
	return err
}

func (d *letterDesk) scheduler() *dlq.Scheduler {
	return &dlq.Scheduler{
		Replayer: d.replayer, Schedule: d.schedule(), Ordered: d.cfg.Outbox.ParkKeys, Log: d.replayer.Log,
		Reach: func(ctx context.Context) error { return d.reach(ctx, "dlq") },
	}
}
