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

	taken int // of a dry run: how many of those that match
}

// changeView is a letter that stays open, and why; of a dry run also one that
// would be taken, with the code and the reason that it has.
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

// previewed bounds what a dry run looks at.
const previewed = 1000

// preview tells what would become of letters, one by one.
func (d *letterDesk) preview(ctx context.Context, job dlq.Job, refs []dlq.Ref, sum *changed) error {
	sum.taken = len(refs)
	return d.replayer.Preview(ctx, job, refs[:min(len(refs), previewed)], func(i *dlq.Item, r dlq.Result) {
		v := changeView{ID: r.ID, Group: r.Group, Topic: r.Topic, Letter: spotView(r.Where), Code: i.Code, Name: string(i.Reason)}
		if r.Err != nil {
			sum.Refused++
			v.Code, v.Name, v.Detail, v.Fix = r.Err.Code.ID, r.Err.Code.Name, r.Err.Error(), r.Err.Remedy()
		}
		sum.Letters = append(sum.Letters, v)
	})
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
		if c.DryRun && v.Detail == "" {
			fmt.Fprintf(w, "would be %s\t%s\t%s\t%s %s\n", c.Action, cell(v.ID, 64), cell(v.Topic, 60), v.Code, v.Name)
			continue
		}
		stays := "stays open"
		if c.DryRun {
			stays = "would stay open"
		}
		fmt.Fprintf(w, stays+"\t%s\t%s\t%s\n", cell(v.ID, 64), cell(v.Topic, 60), cell(v.Detail, 300))
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
		fmt.Fprintf(notes, "%d parked letters are left to the relay: %s\n%s fix: %s\n", c.Parked, fault.LetterParked.Why, fault.LetterParked.ID, fault.LetterParked.Fix)
	}
	if c.Waiting > 0 {
		fmt.Fprintf(notes, "%d letters wait for an earlier one of their key, and for what is parked behind that: replay or purge the earlier one, then run this again\n", c.Waiting)
	}
	if c.DryRun {
		looked := len(c.Letters)
		if looked < c.taken {
			_, err := fmt.Fprintf(out, "of %d letters the first %d were looked at: %d would be %s, %d would stay open\n", c.Matching, looked, looked-c.Refused, c.Action, c.Refused)
			return err
		}
		_, err := fmt.Fprintf(out, "%d of %d letters would be %s, %d would stay open\n", looked-c.Refused, c.Matching, c.Action, c.Refused)
		return err
	}
	_, err := fmt.Fprintf(out, "%d of %d letters %s, %d refused, %d closed by somebody else meanwhile\n", c.Done, c.Matching, c.Action, c.Refused, c.Closed)
	return err
}
