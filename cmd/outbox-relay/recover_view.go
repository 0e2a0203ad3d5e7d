package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/recovery"
)

// recoverView is a plan, or what was done of it; its keys are stable.
type recoverView struct {
	Result     string        `json:"result"` // nothing, plan or done
	Code       string        `json:"code,omitempty"`
	Findings   []failure     `json:"findings"`
	Needs      []needView    `json:"needs"`
	Slot       string        `json:"slot"`
	SlotPlan   string        `json:"slot_plan"`
	Confirmed  string        `json:"slot_confirmed_flush_lsn,omitempty"`
	Checkpoint string        `json:"checkpoint,omitempty"`
	Written    *time.Time    `json:"checkpoint_time,omitempty"`
	Resume     string        `json:"resume_at,omitempty"`
	Rows       *missingView  `json:"rows,omitempty"`
	Topics     []topicView   `json:"topics"`
	Lost       *lostView     `json:"lost_events,omitempty"`
	Order      string        `json:"order,omitempty"`
	Unknown    []string      `json:"cannot_be_known"`
	Published  uint64        `json:"published"`
	Letters    uint64        `json:"published_dlq"`
	Duration   float64       `json:"duration_seconds"`
	took       time.Duration // as Duration
}

type needView struct {
	Accept string `json:"accept"`
	Means  string `json:"means"`
}

type missingView struct {
	Table     int64      `json:"table"`
	Published int64      `json:"already_published"`
	Pending   int64      `json:"slot_will_send"`
	Before    int64      `json:"before_init"`
	Missing   int64      `json:"missing"`
	Oldest    *time.Time `json:"missing_oldest,omitempty"`
	Newest    *time.Time `json:"missing_newest,omitempty"`
	Doubtful  int64      `json:"unknown"`
	From      *time.Time `json:"unknown_oldest,omitempty"`
	To        *time.Time `json:"unknown_newest,omitempty"`
}

type lostView struct {
	Count int64 `json:"count"`
	Again int64 `json:"inserted_again"`
}

func at(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func planOf(r *recovery.Recovery, cfg config.Config, result string) recoverView {
	v := recoverView{
		Result: result, Code: r.Code, Findings: []failure{}, Needs: []needView{}, Topics: []topicView{}, Unknown: []string{},
		Slot: cfg.Outbox.Slot, SlotPlan: string(r.Slot),
	}
	if r.Server.Slot.Name != "" {
		v.Confirmed = r.Server.Slot.ConfirmedLSN.String()
	}
	if c := r.State.Last; c != nil {
		v.Checkpoint, v.Written = fmt.Sprintf("%d at %s", c.Seq, c.Pos), at(c.Time)
	}
	for _, f := range r.Findings {
		v.Findings = append(v.Findings, failure{
			Code: f.Code.ID, Name: f.Code.Name, Class: f.Code.Class.String(), Detail: f.Detail, Why: f.Reason(),
			Docs: "docs/errors.md#" + strings.ToLower(f.Code.ID),
		})
	}
	for _, n := range r.Needs {
		v.Needs = append(v.Needs, needView{n.Words, n.Means})
	}
	if f := r.Found; f != nil {
		v.Resume = r.Resume.String()
		v.Rows = &missingView{
			Table: f.Rows, Published: f.Published, Pending: f.Pending, Before: f.Before,
			Missing: f.Missing.Count, Oldest: at(f.Missing.Oldest), Newest: at(f.Missing.Newest),
			Doubtful: f.Doubtful.Count, From: at(f.Doubtful.Oldest), To: at(f.Doubtful.Newest),
		}
		for _, t := range f.Topics {
			v.Topics = append(v.Topics, topicView{t.Topic, t.Partitions, t.Events, t.Letters + t.ConsumerLetters, t.Foreign})
		}
		if r.Left.Timeline != 0 {
			v.Lost = &lostView{f.Lost, f.Again}
		}
		v.Order, v.Unknown = r.Ordered(), r.Caveats()
	}
	if result == "done" {
		v.Published, v.Letters = r.Published()
	}
	return v
}

func (j *rescue) show(v recoverView) error {
	v.took = time.Since(j.began)
	v.Duration = v.took.Seconds()
	if j.format == formatJSON {
		return writeJSON(j.out, v)
	}
	if v.Result == "nothing" {
		_, err := fmt.Fprintf(j.out, "nothing to recover: slot %s at %s, checkpoint %s\n", v.Slot, v.Confirmed, v.Checkpoint)
		return err
	}
	return v.print(j.out)
}

func (v *recoverView) print(out io.Writer) error {
	for _, f := range v.Findings {
		fmt.Fprintf(out, "%s %s: %s\n  why: %s\n", f.Code, f.Name, f.Detail, f.Why)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "slot\t%s: %s\n", v.Slot, v.SlotPlan)
	if v.Checkpoint != "" {
		fmt.Fprintf(w, "checkpoint\t%s, written %s\n", v.Checkpoint, v.Written.UTC().Format(time.RFC3339))
	}
	if r := v.Rows; r != nil {
		fmt.Fprintf(w, "table\t%s rows, %s of them published\n", thousands(r.Table), thousands(r.Published))
		fmt.Fprintf(w, "missing\t%s rows%s: %s\n", thousands(r.Missing), span(r.Oldest, r.Newest), publishes(v.Result))
		for _, l := range []struct {
			n    int64
			text string
		}{
			{r.Pending, "rows that the slot sends: left to the relay"},
			{r.Before, "rows from before init, which were never the relay's: left out"},
		} {
			if l.n > 0 {
				fmt.Fprintf(w, "\t%s %s\n", thousands(l.n), l.text)
			}
		}
		if r.Doubtful > 0 {
			fmt.Fprintf(w, "unknown\t%s rows%s: whether they were published, or the relay's to publish, cannot be told\n", thousands(r.Doubtful), span(r.From, r.To))
			fmt.Fprintf(w, "\tleft out, unless --accept unknown=%d\n", r.Doubtful)
		}
	}
	for _, t := range v.Topics {
		fmt.Fprintf(w, "topic\t%s, %s\n", t.Topic, holds(audit.TopicCount{Topic: t.Topic, Partitions: t.Partitions, Events: t.Events, Letters: t.Letters, Foreign: t.Foreign}, t.Letters > 0))
	}
	if l := v.Lost; l != nil {
		fmt.Fprintf(w, "lost\t%s events are in Kafka and no longer in the database (--lost FILE lists them); rows with the ids of %s were inserted again\n", thousands(l.Count), thousands(l.Again))
	}
	if v.Order != "" {
		fmt.Fprintf(w, "order\t%s\n", v.Order)
	}
	for i, text := range v.Unknown {
		fmt.Fprintf(w, "%s\t%s\n", []string{"not known", ""}[min(i, 1)], text)
	}
	if v.Resume != "" {
		fmt.Fprintf(w, "then\tthe relay goes on at %s\n", v.Resume)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if v.Result == "done" {
		_, err := fmt.Fprintf(out, "\ndone in %s: %s rows published, %s of them dead letters\nnext: outbox-relay serve\n",
			v.took.Round(10*time.Millisecond), thousands(int64(v.Published)), thousands(int64(v.Letters)))
		return err
	}
	words := []string{"outbox-relay recover"}
	for _, n := range v.Needs {
		fmt.Fprintf(out, "\nto be decided: %s\n  --accept %s\n", n.Means, n.Accept)
		words = append(words, "--accept", n.Accept)
	}
	_, err := fmt.Fprintf(out, "\nnothing was changed. To do this, stop all replicas, then: %s --yes\n", strings.Join(words, " "))
	return err
}

func publishes(result string) string {
	return map[string]string{"plan": "to be published", "done": "published"}[result]
}

func span(from, to *time.Time) string {
	if from == nil {
		return ""
	}
	return fmt.Sprintf(", created %s to %s", from.UTC().Format(time.RFC3339), cmp.Or(to, from).UTC().Format(time.RFC3339))
}

// terminalIn tells whether somebody can be asked.
func terminalIn(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
