package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
)

// dataCheck is what the command line says of a comparison.
type dataCheck struct {
	since   time.Time
	limit   int
	wait    time.Duration
	tempDir string
	bar     *progress
}

// verifyData compares the table with the topics.
func verifyData(ctx context.Context, cfg config.Config, check dataCheck, out io.Writer, format string, log zerolog.Logger) error {
	return withServer(ctx, cfg, log, func(p *parts, srv *replication.Server) error {
		c, err := p.audit(ctx, srv, check)
		if err != nil {
			return err
		}
		began := time.Now()
		report, err := audit.Run(ctx, c)
		check.bar.end()
		if err != nil {
			return err
		}
		if format == formatJSON {
			err = writeJSON(out, viewOfAudit(report, time.Since(began)))
		} else {
			err = printAudit(out, cfg, report, time.Since(began))
		}
		if err == nil && !report.Sound() {
			err = exitFinding
		}
		return err
	})
}

func (p *parts) audit(ctx context.Context, srv *replication.Server, check dataCheck) (audit.Config, error) {
	id, err := srv.Identify(ctx)
	if err != nil {
		return audit.Config{}, err
	}
	table, err := srv.Columns(ctx)
	if err != nil {
		return audit.Config{}, err
	}
	shape := make([]outbox.Column, len(table))
	for i, c := range table {
		shape[i] = outbox.Column{Name: c.Name, TypeOID: c.TypeOID}
	}
	if err := p.reach(ctx, "verify"); err != nil {
		return audit.Config{}, err
	}
	opts, err := p.client("verify")
	if err != nil {
		return audit.Config{}, err
	}
	ckpt, err := p.checkpointLog()
	if err != nil {
		return audit.Config{}, err
	}
	return audit.Config{
		Conn: srv.Conn(), SystemID: id.SystemID, Timeline: id.Timeline, Table: p.table, Columns: p.cfg.Outbox.Columns, Shape: shape,
		Slot: p.cfg.Outbox.Slot, Publication: p.cfg.Outbox.Publication, Kafka: opts, Router: p.translator().Router,
		Letters: p.cfg.Kafka.DLQTopic, Checkpoint: ckpt, Since: check.since, Examples: check.limit, Wait: check.wait,
		Stall: p.cfg.Kafka.Client.RequestTimeout, TempDir: check.tempDir,
		Progress: func(g audit.Progress) { check.bar.at(g.Step, g.Done, g.Total) },
	}, nil
}

// auditView is a comparison as the command shows it; its keys are stable.
type auditView struct {
	Result        string        `json:"result"`
	Duration      float64       `json:"duration_seconds"`
	Since         *time.Time    `json:"since,omitempty"`
	Snapshot      string        `json:"snapshot_lsn"`
	Checkpoint    string        `json:"checkpoint"`
	CheckpointSeq uint64        `json:"checkpoint_seq"`
	Rows          int64         `json:"rows"`
	Found         int64         `json:"rows_found"`
	Pending       int64         `json:"rows_pending"`
	Undecided     int64         `json:"rows_undecided"`
	Undecidable   string        `json:"undecided_because,omitempty"`
	Expired       int64         `json:"rows_expired"`
	Events        int64         `json:"events"`
	Replays       int64         `json:"replays"`
	Letters       int64         `json:"letters"`
	Consumers     int64         `json:"consumer_letters"`
	Deleted       int64         `json:"records_without_row"`
	Newer         int64         `json:"records_after_snapshot"`
	Foreign       int64         `json:"records_foreign"`
	Topics        []topicView   `json:"topics"`
	Findings      []findingKind `json:"findings"`
}

type topicView struct {
	Topic      string `json:"topic"`
	Partitions int    `json:"partitions"`
	Events     int64  `json:"events"`
	Letters    int64  `json:"letters"`
	Foreign    int64  `json:"foreign"`
}

type findingKind struct {
	Code     string        `json:"code"`
	Name     string        `json:"name"`
	Count    int64         `json:"count"`
	Why      string        `json:"why"`
	Fix      string        `json:"fix"`
	Docs     string        `json:"docs"`
	Examples []findingView `json:"examples"`
}

type findingView struct {
	ID      string      `json:"id"`
	Detail  string      `json:"detail"`
	Created *time.Time  `json:"created_at,omitempty"`
	Places  []placeView `json:"records"`
}

type placeView struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

func viewOfAudit(r *audit.Report, took time.Duration) auditView {
	v := auditView{
		Result: "pass", Duration: took.Seconds(), Snapshot: r.Snapshot.String(), Checkpoint: r.Checkpoint.String(), CheckpointSeq: r.CheckpointSeq,
		Rows: r.Rows, Found: r.Found, Pending: r.Pending, Undecided: r.Undecided, Undecidable: r.Undecidable, Expired: r.Expired,
		Events: r.Events, Replays: r.Replays, Letters: r.Letters, Consumers: r.ConsumerLetters,
		Deleted: r.Deleted, Newer: r.Newer, Foreign: r.Foreign,
		Topics: []topicView{}, Findings: []findingKind{},
	}
	if !r.Since.IsZero() {
		v.Since = &r.Since
	}
	for _, t := range r.Topics {
		v.Topics = append(v.Topics, topicView{t.Topic, t.Partitions, t.Events, t.Letters + t.ConsumerLetters, t.Foreign})
	}
	for _, k := range r.Verdicts() {
		if k.Count == 0 {
			continue
		}
		v.Result = "fail"
		one := findingKind{
			Code: k.Code.ID, Name: k.Code.Name, Count: k.Count, Why: k.Code.Why, Fix: k.Code.Fix,
			Docs: "docs/errors.md#" + strings.ToLower(k.Code.ID), Examples: []findingView{},
		}
		for _, f := range k.Examples {
			e := findingView{ID: f.ID, Detail: f.Detail, Created: f.Created, Places: []placeView{}}
			for _, p := range f.Places {
				e.Places = append(e.Places, placeView(p))
			}
			one.Examples = append(one.Examples, e)
		}
		v.Findings = append(v.Findings, one)
	}
	return v
}

func printAudit(out io.Writer, cfg config.Config, r *audit.Report, took time.Duration) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	since := ""
	if !r.Since.IsZero() {
		since = ", created since " + r.Since.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(w, "table\t%s, %s rows%s, as of %s\n", cfg.Outbox.Table, thousands(r.Rows), since, r.Snapshot)
	fmt.Fprintf(w, "checkpoint\t%d at %s\n", r.CheckpointSeq, r.Checkpoint)
	for _, t := range r.Topics {
		fmt.Fprintf(w, "topic\t%s, %s\n", t.Topic, holds(t, t.Topic == cfg.Kafka.DLQTopic))
	}
	fmt.Fprintf(w, "found\t%s rows\n", thousands(r.Found))
	for _, l := range []struct {
		count      int64
		name, text string
	}{
		{r.Pending, "pending", "rows that committed behind the checkpoint, not yet published"},
		{r.Undecided, "undecided", "rows that are not found and may be still to come: " + r.Undecidable},
		{r.Expired, "expired", "rows from before the first record that their topic has left: whether they were published can no longer be told"},
		{r.Deleted, "without row", "records whose row the table no longer has"},
		{r.Newer, "after", "records of rows that committed after the snapshot"},
		{r.Replays, "replays", "of dead letters, among the events"},
	} {
		if l.count > 0 {
			fmt.Fprintf(w, "%s\t%s %s\n", l.name, thousands(l.count), l.text)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	kinds := 0
	for _, v := range r.Verdicts() {
		if v.Count == 0 {
			continue
		}
		kinds++
		fmt.Fprintf(out, "\n%s %s: %s\n  why: %s\n  fix: %s\n  docs: docs/errors.md#%s\n", v.Code.ID, v.Code.Name, thousands(v.Count), v.Code.Why, v.Code.Fix, strings.ToLower(v.Code.ID))
		for _, f := range v.Examples {
			fmt.Fprintf(out, "  - %s %s%s\n", f.ID, f.Detail, where(f))
		}
		if rest := v.Count - int64(len(v.Examples)); rest > 0 {
			fmt.Fprintf(out, "  - and %s more (--limit)\n", thousands(rest))
		}
	}
	verdict := "pass: nothing missing, doubled, reordered or different"
	if kinds > 0 {
		verdict = fmt.Sprintf("fail: %d kinds of finding", kinds)
	}
	_, err := fmt.Fprintf(out, "\n%s, in %s\n", verdict, took.Round(10*time.Millisecond))
	return err
}

func holds(t audit.TopicCount, dead bool) string {
	text := thousands(t.Events) + " events"
	if dead {
		text = thousands(t.Letters) + " letters"
	}
	switch {
	case t.Partitions == 0:
		return "does not exist"
	case t.ConsumerLetters > 0:
		text += fmt.Sprintf(" and %s of consumers", thousands(t.ConsumerLetters))
	}
	if t.Foreign > 0 {
		text += fmt.Sprintf(", %s records of others", thousands(t.Foreign))
	}
	if t.Partitions == 1 {
		return text + " in 1 partition"
	}
	return text + fmt.Sprintf(" in %d partitions", t.Partitions)
}

func where(f audit.Finding) string {
	var parts []string
	for _, p := range f.Places {
		parts = append(parts, fmt.Sprintf("%s/%d@%d", p.Topic, p.Partition, p.Offset))
	}
	text := ""
	if len(parts) > 0 {
		text = " (" + strings.Join(parts, ", ") + ")"
	}
	if f.Created != nil {
		text += ", created " + f.Created.Format(time.RFC3339Nano)
	}
	return text
}
