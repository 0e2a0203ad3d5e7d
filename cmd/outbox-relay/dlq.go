package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
)

type dlqCmd struct {
	List   dlqListCmd   `cmd:"" help:"List dead letters, the oldest first."`
	Show   dlqShowCmd   `cmd:"" help:"Show one dead letter and what became of it."`
	Replay dlqReplayCmd `cmd:"" help:"Send dead letters on to where they were meant to go, each once."`
	Export dlqExportCmd `cmd:"" help:"Write dead letters as JSON, one to a line."`
	Purge  dlqPurgeCmd  `cmd:"" help:"Mark dead letters as no longer wanted."`
	Retry  dlqRetryCmd  `cmd:"" help:"Replay the dead letters whose time has come, as serve does with OUTBOX_DLQ_RETRY=true."`
}

// letterFilter chooses letters, in the words of the command line.
type letterFilter struct {
	Reason    []string `help:"Only these reasons: too_large, invalid_topic, refused, handler, ..." placeholder:"REASON"`
	Code      []string `help:"Only these codes: OBX-2002, ..." placeholder:"CODE"`
	ID        []string `help:"Only events with these ids." placeholder:"ID"`
	Aggregate []string `help:"Only events of these aggregates." placeholder:"[TYPE:]ID"`
	Group     []string `help:"Only letters of these consumer groups; - is the relay's own." placeholder:"GROUP"`
	Since     string   `help:"Only letters written since then: a time, or how long ago (2h)." placeholder:"TIME"`
	Until     string   `help:"Only letters written before then." placeholder:"TIME"`
}

func (f letterFilter) filter(ids []string, states ...dlq.State) (dlq.Filter, error) {
	out := dlq.Filter{IDs: append(ids, f.ID...), Aggregates: f.Aggregate, States: states}
	for _, r := range f.Reason {
		// What is mistyped would match nothing, and nothing looks like good news.
		reason := dlq.Reason(strings.ReplaceAll(strings.ToLower(r), "-", "_"))
		if !slices.Contains(dlq.Reasons(), reason) {
			return out, fault.New(fault.CommandLine, "--reason=%q is no reason", r).
				WithWhy("reasons are %s", strings.ReplaceAll(strings.Trim(fmt.Sprint(dlq.Reasons()), "[]"), " ", ", ")).WithFix("--reason=too_large")
		}
		out.Reasons = append(out.Reasons, reason)
	}
	for _, code := range f.Code {
		if _, err := strconv.ParseUint(code, 10, 16); err == nil {
			code = "OBX-" + code
		}
		out.Codes = append(out.Codes, strings.ToUpper(code))
	}
	for _, g := range f.Group {
		if g == "-" {
			g = ""
		}
		out.Groups = append(out.Groups, g)
	}
	var err error
	if out.Since, err = pointInTime("--since", f.Since); err != nil {
		return out, err
	}
	if out.Until, err = pointInTime("--until", f.Until); err != nil {
		return out, err
	}
	if !out.Until.IsZero() && !out.Since.Before(out.Until) {
		return out, fault.New(fault.CommandLine, "--until=%q is not after --since=%q", f.Until, f.Since).
			WithWhy("no letter is that").WithFix("--since=3h --until=2h is the hour before the last two")
	}
	return out, nil
}

// statesOf reads --state; none is all of them.
func statesOf(flag string) []dlq.State {
	if flag == "all" {
		return nil
	}
	return []dlq.State{dlq.State(flag)}
}

// everything tells whether nothing was chosen.
func (f letterFilter) everything(ids []string) bool {
	return len(ids)+len(f.Reason)+len(f.Code)+len(f.ID)+len(f.Aggregate)+len(f.Group) == 0 && f.Since == "" && f.Until == ""
}

// pointInTime reads a time, a day, or how long ago it was.
func pointInTime(flag, text string) (time.Time, error) {
	return readTime(flag, text, time.Now())
}

func readTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fault.New(fault.CommandLine, "%s=%q is no time", flag, text).
		WithWhy("it is a point in time, UTC unless it says otherwise, or how long ago it was").
		WithFix("%[1]s=2026-01-31T12:00:00Z, %[1]s=2026-01-31 or %[1]s=2h30m", flag)
}

// atLeastZero refuses a --max that means nothing.
func atLeastZero(most int) error {
	if most < 0 {
		return fault.New(fault.CommandLine, "--max is %d", most).WithFix("--max=100, or --max=0 for all")
	}
	return nil
}

type dlqListCmd struct {
	letterFilter
	State string `enum:"open,replayed,purged,released,all" default:"open" placeholder:"STATE" help:"open, replayed, purged, released or all."`
	Max   int    `default:"100" help:"Show at most so many; 0: all."`
}

func (c *dlqListCmd) Run(a *app) error {
	if err := atLeastZero(c.Max); err != nil {
		return err
	}
	f, err := c.filter(nil, statesOf(c.State)...)
	if err != nil {
		return err
	}
	d, err := a.dlq()
	if err != nil {
		return err
	}
	return d.list(a.ctx, f, c.Max, a.stdout, a.stderr, a.format)
}

type dlqShowCmd struct {
	ID      string `arg:"" help:"Id of the event."`
	Payload bool   `help:"Show key and payload too, which may be private."`
}

func (c *dlqShowCmd) Run(a *app) error {
	d, err := a.dlq()
	if err != nil {
		return err
	}
	return d.show(a.ctx, c.ID, c.Payload, a.stdout, a.format)
}

type dlqExportCmd struct {
	letterFilter
	IDs         []string `arg:"" optional:"" name:"id" help:"Ids of events."`
	State       string   `enum:"open,replayed,purged,released,all" default:"open" placeholder:"STATE" help:"open, replayed, purged, released or all."`
	File        string   `placeholder:"FILE" help:"Write there instead of to standard output; the file must not exist."`
	WithPayload bool     `help:"Include key and payload, which may be private."`
}

func (c *dlqExportCmd) Run(a *app) error {
	f, err := c.filter(c.IDs, statesOf(c.State)...)
	if err != nil {
		return err
	}
	d, err := a.dlq()
	if err != nil {
		return err
	}
	return d.export(a.ctx, f, c.WithPayload, c.File, a.stdout, a.stderr)
}

type dlqReplayCmd struct {
	letterFilter
	IDs           []string `arg:"" optional:"" name:"id" help:"Ids of events."`
	To            string   `placeholder:"TOPIC" help:"Send to this topic instead of the one that was meant."`
	FromTable     bool     `help:"Send the rows as they are in the outbox table now, as after a correction."`
	IncludeParked bool     `help:"Replay parked letters too, if the relay does not hold their key back any more."`
	MaxReplays    int      `default:"3" help:"Refuse events that were replayed so often and came back each time."`
	Force         bool     `help:"Replay them, however often that was."`
	selection
}

// selection is what all have that change something.
type selection struct {
	Max    int  `help:"Take at most so many, in the order of their rows; 0: all." placeholder:"N"`
	DryRun bool `help:"Only say what would be done."`
	Yes    bool `help:"Do it. A purge needs this, a replay of more than 100 letters, and one of all letters with --to."`
}

func (c *dlqReplayCmd) Run(a *app) error {
	job := dlq.Job{Action: dlq.Replayed, To: c.To, FromTable: c.FromTable, MaxReplays: c.MaxReplays}
	switch {
	case c.MaxReplays < 0:
		return fault.New(fault.CommandLine, "--max-replays is %d", c.MaxReplays).WithFix("--max-replays=3, or --force for any number")
	case c.Force:
		job.MaxReplays = 0
	}
	if err := atLeastZero(c.Max); err != nil {
		return err
	}
	f, err := c.filter(c.IDs, dlq.StateOpen)
	if err != nil {
		return err
	}
	d, err := a.dlq()
	if err != nil {
		return err
	}
	sure := 100
	if c.To != "" && c.everything(c.IDs) {
		sure = 0 // all letters into one topic is more often a slip than a wish
	}
	return d.change(a.ctx, change{
		job: job, filter: f, includeParked: c.IncludeParked, selection: c.selection, sure: sure,
	}, a.stdout, a.stderr, a.format)
}

type dlqPurgeCmd struct {
	letterFilter
	IDs           []string `arg:"" optional:"" name:"id" help:"Ids of events."`
	Because       string   `placeholder:"TEXT" help:"Why; it is kept with the mark."`
	IncludeParked bool     `help:"Purge parked letters too, if the relay does not hold their key back any more."`
	selection
}

func (c *dlqPurgeCmd) Run(a *app) error {
	if err := atLeastZero(c.Max); err != nil {
		return err
	}
	f, err := c.filter(c.IDs, dlq.StateOpen)
	if err != nil {
		return err
	}
	d, err := a.dlq()
	if err != nil {
		return err
	}
	return d.change(a.ctx, change{
		job:    dlq.Job{Action: dlq.Purged, Because: c.Because},
		filter: f, includeParked: c.IncludeParked, selection: c.selection,
	}, a.stdout, a.stderr, a.format)
}

type dlqRetryCmd struct {
	Watch bool          `help:"Go on until stopped."`
	Tick  time.Duration `default:"10s" help:"Between two looks."`
}

func (c *dlqRetryCmd) Run(a *app) error {
	if c.Tick < 100*time.Millisecond {
		return fault.New(fault.CommandLine, "--tick=%s is too short", c.Tick).WithFix("--tick=10s")
	}
	d, err := a.dlq()
	if err != nil {
		return err
	}
	return d.retry(a.ctx, c.Watch, c.Tick, a.stdout, a.format)
}

// dlq prepares what these commands share. A database is of use, not needed.
func (a *app) dlq() (*letterDesk, error) {
	cfg, log, err := a.settings(config.NeedKafka)
	if err != nil {
		return nil, err
	}
	return newLetterDesk(newParts(cfg, log).once(), fmt.Sprintf("%s@%s", a.user(), instance()))
}

// user is who runs this, as far as the environment tells.
func (a *app) user() string {
	for _, name := range []string{"SUDO_USER", "USER", "LOGNAME"} {
		for _, kv := range a.environ {
			if len(kv) > len(name)+1 && kv[:len(name)] == name && kv[len(name)] == '=' {
				return kv[len(name)+1:]
			}
		}
	}
	return "cli"
}
