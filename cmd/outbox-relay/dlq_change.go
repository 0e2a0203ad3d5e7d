package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// changed is the result of a replay or a purge; its keys are stable.
type changed struct {
	Action   string       `json:"action"`
	DryRun   bool         `json:"dry_run"`
	Matching int          `json:"matching"`
	Done     int          `json:"done"`
	Refused  int          `json:"refused"`
	Closed   int          `json:"closed_meanwhile"`
	Parked   int          `json:"parked"`  // left to the relay
	Waiting  int          `json:"waiting"` // for an earlier letter of their key
	Letters  []changeView `json:"letters"`
}

// changeView is a letter that stays open, and why; of a dry run, one that
// would be taken.
type changeView struct {
	ID     string   `json:"id"`
	Group  string   `json:"group,omitempty"`
	Topic  string   `json:"topic"`
	Letter spotView `json:"letter"`
	Code   string   `json:"code,omitempty"`
	Name   string   `json:"name,omitempty"`
	Detail string   `json:"detail,omitempty"`
	Fix    string   `json:"fix,omitempty"`
}

func (c *changed) add(r dlq.Result) {
	switch r.Outcome {
	case dlq.OutcomeDone:
		c.Done++
	case dlq.OutcomeClosed:
		c.Closed++
	case dlq.OutcomeRefused:
		c.Refused++
		c.Letters = append(c.Letters, changeView{
			ID: r.ID, Group: r.Group, Topic: r.Topic, Letter: spotView(r.Where),
			Code: r.Err.Code.ID, Name: r.Err.Code.Name, Detail: r.Err.Error(), Fix: r.Err.Remedy(),
		})
	}
}

// previewed bounds what a dry run lists.
const previewed = 1000

// preview lists what would be taken.
func (d *letterDesk) preview(ctx context.Context, refs []dlq.Ref) ([]changeView, error) {
	items, err := d.replayer.View.Fetch(ctx, refs[:min(len(refs), previewed)])
	if err != nil {
		return nil, err
	}
	views := make([]changeView, len(items))
	for i, item := range items {
		views[i] = changeView{ID: item.ID(), Group: item.Group, Topic: item.Topic, Letter: spotView(item.Where), Code: item.Code, Name: string(item.Reason)}
	}
	return views, nil
}

func (c *changed) print(out, notes io.Writer, format string) error {
	if c.Letters == nil {
		c.Letters = []changeView{}
	}
	if format == formatJSON {
		return writeJSON(out, c)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, v := range c.Letters {
		if c.DryRun {
			fmt.Fprintf(w, "would be %s\t%s\t%s\t%s %s\n", c.Action, cell(v.ID, 64), cell(v.Topic, 60), v.Code, v.Name)
			continue
		}
		fmt.Fprintf(w, "stays open\t%s\t%s\t%s\n", cell(v.ID, 64), cell(v.Topic, 60), cell(v.Detail, 300))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, v := range c.Letters {
		if v.Fix != "" && !seen[v.Code] {
			seen[v.Code] = true
			fmt.Fprintf(notes, "%s fix: %s\n", v.Code, v.Fix)
		}
	}
	if c.Parked > 0 {
		fmt.Fprintf(notes, "%d parked letters are left to the relay: %s\n", c.Parked, fault.LetterParked.Why)
	}
	if c.Waiting > 0 {
		fmt.Fprintf(notes, "%d letters wait for an earlier one of their key, and for what is parked behind that: replay or purge the earlier one, then run this again\n", c.Waiting)
	}
	if c.DryRun {
		_, err := fmt.Fprintf(out, "%d letters would be %s\n", c.Matching, c.Action)
		return err
	}
	_, err := fmt.Fprintf(out, "%d of %d letters %s, %d refused, %d closed by somebody else meanwhile\n", c.Done, c.Matching, c.Action, c.Refused, c.Closed)
	return err
}
