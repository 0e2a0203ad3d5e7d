package recovery

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// SlotPlan is what becomes of the slot.
type SlotPlan string

// The plans.
const (
	KeepSlot    SlotPlan = "keep"
	CreateSlot  SlotPlan = "create"
	ReplaceSlot SlotPlan = "drop and create"
)

// Diagnosis is what is wrong, and what follows from it.
type Diagnosis struct {
	*Survey
	// Findings are what is wrong, the first of which names the recovery. None:
	// there is nothing to recover.
	Findings []*fault.Error
	// Code is what the recovery is for, such as OBX-3103.
	Code string
	// Needs are the words that a person has to repeat, with what they mean.
	Needs []Need
	Slot  SlotPlan
	// UnderWay is the recovery that this one goes on with; nil: it begins.
	UnderWay *checkpoint.Recovery
	// Before is where the relay stood, on the server's timeline where that
	// descends from its own; nil if that is not known or means nothing here.
	Before *checkpoint.Position
	// Left is where the history of the server left the one that was published;
	// Timeline 0: nowhere.
	Left dlq.Place
	// Rebased: positions begin anew.
	Rebased bool
	// ByHeaders: the position is to be found from the headers of what was
	// published.
	ByHeaders bool
}

// Need is a decision that has to be repeated.
type Need struct {
	Words string // what --accept repeats
	Means string // what is decided
}

// Sound tells whether there is nothing to recover.
func (d *Diagnosis) Sound() bool { return len(d.Findings) == 0 }

// Diagnose compares both ends, as a relay does at its start, and says what can
// be done about each difference. The error is about what cannot be recovered
// from here.
func Diagnose(cfg Config, s *Survey) (*Diagnosis, error) {
	d := &Diagnosis{Survey: s, Slot: KeepSlot}
	if err := d.diagnose(cfg); err != nil {
		return nil, err
	}
	if len(d.Findings) > 0 {
		d.Code = d.Findings[0].Code.ID
	}
	if d.UnderWay != nil {
		d.Code = d.UnderWay.Code
	}
	for _, words := range cfg.Accept {
		if !slices.ContainsFunc(d.Needs, func(n Need) bool { return n.Words == words }) && !strings.HasPrefix(words, unknownWord) && d.UnderWay == nil {
			return nil, fault.New(fault.RecoveryMismatch, "--accept %s", words)
		}
	}
	return d, nil
}

// unknownWord is that of rows of which it is not known whether they were
// published; how many there are is known only when they were looked for.
const unknownWord = "unknown="

// Accepted refuses a diagnosis that needs words that nobody has repeated.
func (d *Diagnosis) Accepted(accept []string) error {
	for _, n := range d.Needs {
		if !slices.Contains(accept, n.Words) {
			return fault.New(fault.RecoveryUndecided, "nobody has decided about %s", n.Words).
				WithWhy("%s", n.Means).WithFix("outbox-relay recover --accept %s, if that is so", n.Words)
		}
	}
	return nil
}

func (d *Diagnosis) find(f *fault.Error) { d.Findings = append(d.Findings, f) }

func (d *Diagnosis) need(means, words string, args ...any) {
	d.Needs = append(d.Needs, Need{Words: fmt.Sprintf(words, args...), Means: means})
}

func (d *Diagnosis) diagnose(cfg Config) error {
	slot, last := d.Server.Slot, d.State.Last
	switch {
	case slot.Name == "" && last == nil:
		return fault.New(fault.NotInitialised, "slot %s on %s, topic %s", cfg.Source.Slot, d.Server.Host, cfg.Checkpoint).
			WithFix("outbox-relay init; if this relay has run before: init, and then outbox-relay recover --missing")
	case last == nil && d.State.Intent != nil && d.State.Intent.Source.SystemID == d.Server.SystemID && d.State.Intent.Source.Slot == slot.Name:
		return fault.New(fault.AlreadyHalf, "init was begun at %s, and there is no first checkpoint", d.State.Intent.Time.Format("2006-01-02 15:04:05Z07:00")).
			WithFix("outbox-relay init, which finishes what it began")
	}
	// The slot first: its codes are those that people come with.
	var missing, lost bool
	switch {
	case slot.Name == "":
		missing, d.Slot = true, CreateSlot
		d.find(fault.New(fault.SlotMissing, "slot %s on %s", cfg.Source.Slot, d.Server.Host))
	case slot.Lost():
		reason := slot.Invalidation
		if reason == "" {
			reason = "wal_status " + slot.WALStatus
		}
		lost, d.Slot = true, ReplaceSlot
		d.find(fault.New(fault.SlotLost, "slot %s (%s), confirmed up to %s", slot.Name, reason, slot.ConfirmedLSN))
	}
	usable := !missing && !lost
	if last == nil {
		d.ByHeaders = true
		d.find(fault.New(fault.CheckpointMissing, "topic %s holds nothing for relay %s, and slot %s is at %s", cfg.Checkpoint, cfg.Name, cfg.Source.Slot, slot.ConfirmedLSN))
		d.need("the checkpoint of this relay is really gone: these are the cluster, the topic and the name that it had", "checkpoint=%s@%s", cfg.Source.Slot, slot.ConfirmedLSN)
		return d.asked(cfg, usable)
	}
	c := *last
	if d.UnderWay = c.Recovery; d.UnderWay != nil {
		d.find(fault.New(fault.RecoveryUnderWay, "recovery %s for %s was begun at %s", c.Recovery.ID, c.Recovery.Code, c.Recovery.Began.UTC().Format("2006-01-02 15:04:05Z")))
		c.Pos = c.Recovery.From
		d.ByHeaders = c.Recovery.Code == fault.CheckpointMissing.ID || c.Recovery.Code == fault.CheckpointForked.ID
	}
	if c.Source.Database != d.Server.Database || c.Source.Slot != cfg.Source.Slot {
		return fault.New(fault.NameChanged, "checkpoint %d belongs to slot %s of database %s, this is slot %s of database %s",
			c.Seq, c.Source.Slot, c.Source.Database, cfg.Source.Slot, d.Server.Database)
	}
	d.sameTopic(c)
	if err := d.sameHistory(c, usable); err != nil {
		return err
	}
	if d.Before != nil && usable && slot.ConfirmedLSN > d.Before.EndLSN && d.Slot == KeepSlot && len(d.Findings) == 0 {
		d.find(fault.New(fault.Gap, "slot %s is at %s, %d bytes ahead of checkpoint %d at %s",
			slot.Name, slot.ConfirmedLSN, int64(slot.ConfirmedLSN-d.Before.EndLSN), c.Seq, d.Before.EndLSN))
	}
	if d.UnderWay != nil {
		d.Needs = nil // that was decided when it began
		if usable {
			d.Slot = KeepSlot // it was made then, or judged fit, and holds what came since
		}
	}
	return d.asked(cfg, usable)
}

// asked adds what the command line asks for.
func (d *Diagnosis) asked(cfg Config, usable bool) error {
	slot := d.Server.Slot
	if cfg.Missing && len(d.Findings) == 0 {
		d.find(fault.New(fault.DataMissing, "asked for: rows that are in no topic"))
	}
	if cfg.NewSlot && usable && d.Slot == KeepSlot {
		d.Slot = ReplaceSlot
		d.need("the slot is dropped: what it was still to send and is no longer in the table is lost", "new-slot=%s@%s", slot.Name, slot.ConfirmedLSN)
		if len(d.Findings) == 0 {
			d.find(fault.New(fault.HistoryMismatch, "asked for: slot %s anew", slot.Name))
		}
	}
	switch {
	case len(d.Findings) == 0 || !usable:
		return nil
	case slot.Active:
		return fault.New(fault.SlotHeld, "slot %s is held by PID %d", slot.Name, slot.ActivePID).
			WithWhy("a relay streams from it, and a recovery needs it for itself").WithFix("stop all replicas, then run the command again")
	case slot.Plugin != "pgoutput" || slot.Database != d.Server.Database || slot.Temporary || slot.TwoPhase:
		return fault.New(fault.SlotShape, "slot %s: plugin %s, database %s, temporary=%t two_phase=%t", slot.Name, slot.Plugin, slot.Database, slot.Temporary, slot.TwoPhase)
	}
	return nil
}

// sameTopic looks whether the checkpoint was written here.
func (d *Diagnosis) sameTopic(c checkpoint.Checkpoint) {
	if f := d.Fork; f != nil && d.UnderWay == nil {
		d.ByHeaders, d.Rebased = true, true
		d.find(f)
		d.need("whoever wrote the other checkpoints has stopped, and what the topics hold is what counts as published", "history=%d@%s", c.Seq, c.Pos)
	}
	if c.Source.ClusterID == d.ClusterID && c.Source.TopicID == d.TopicID {
		return
	}
	d.ByHeaders, d.Rebased = true, true
	d.find(fault.New(fault.CheckpointForked, "checkpoint %d was written to topic %s of cluster %s, this is topic %s of cluster %s",
		c.Seq, c.Source.TopicID, c.Source.ClusterID, d.TopicID, d.ClusterID))
	d.need("this cluster is where the events are from now on, and what it holds of them is what counts as published",
		"topic=%s/%s:%s/%s", c.Source.ClusterID, c.Source.TopicID, d.ClusterID, d.TopicID)
}

// sameHistory looks whether the position means anything on this server.
func (d *Diagnosis) sameHistory(c checkpoint.Checkpoint, usable bool) error {
	st, top := d.Server, published(c.Pos)
	switch {
	case c.Pos.Timeline == 0: // of a recovery that knew no position
		return nil
	case c.Source.SystemID != st.SystemID:
		d.Rebased, d.ByHeaders = true, false
		d.find(fault.New(fault.IdentityChanged, "checkpoint %d belongs to system %s, this is system %s", c.Seq, c.Source.SystemID, st.SystemID))
		d.need("this server holds the data of the other one, by pg_upgrade, dump and restore or replication", "identity=%s:%s@%s", c.Source.SystemID, st.SystemID, c.Pos.EndLSN)
		return nil
	case st.Timeline < c.Pos.Timeline:
		return fault.New(fault.OldPrimary, "server is on timeline %d, checkpoint %d on %d", st.Timeline, c.Seq, c.Pos.Timeline)
	case st.Timeline == c.Pos.Timeline:
		d.Before = &c.Pos
		if top <= st.FlushLSN {
			return nil
		}
		d.Rebased, d.Before = true, nil
		if usable {
			d.Slot = ReplaceSlot
		}
		d.find(fault.New(fault.LSNBackwards, "checkpoint %d is at %s, the server's WAL ends at %s", c.Seq, c.Pos, st.FlushLSN))
		d.need("the server was restored from an older copy on purpose: what it lost is lost, and positions are used a second time", "backwards=%s", c.Pos.EndLSN)
		return nil
	}
	var at pglogrepl.LSN
	for _, s := range st.Switches {
		if s.Timeline == c.Pos.Timeline {
			at = s.At
		}
	}
	if top <= at {
		c.Pos.Timeline = st.Timeline
		d.Before = &c.Pos
		return nil
	}
	d.Left = dlq.Place{Timeline: c.Pos.Timeline, LSN: at}
	if at != 0 {
		d.Before = &checkpoint.Position{Timeline: st.Timeline, EndLSN: at}
	} else if usable {
		d.Slot = ReplaceSlot
	}
	d.find(fault.New(fault.Diverged, "published up to %s on timeline %d, which timeline %d left at %s", top, c.Pos.Timeline, st.Timeline, at))
	d.need("events between the two positions stay in Kafka, and the database does not know them", "diverged=%s:%s", at, top)
	return nil
}

// resume is where a relay goes on that has this slot: what the slot sends from
// there on is the relay's to publish, and what lies before is the recovery's. F
// is where the slot begins, and high what was published last.
func (d *Diagnosis) resume(f pglogrepl.LSN, high dlq.Place) checkpoint.Position {
	r := checkpoint.Position{Timeline: d.Server.Timeline, EndLSN: f}
	switch b := d.Before; {
	case d.ByHeaders && d.descends(high) && high.LSN >= f:
		// Whether the transaction was whole is not known. If so, nothing is left of
		// it behind this ordinal.
		r.EndLSN, r.CommitLSN, r.Ordinal = high.LSN, high.LSN, high.Ordinal
	case d.ByHeaders || b == nil:
	case b.EndLSN >= f:
		r = *b
	case b.Cut() && f <= b.CommitLSN:
		r.CommitLSN, r.Ordinal = b.CommitLSN, b.Ordinal // it comes again, whole
	}
	return r
}

// descends tells whether a position is part of the server's history.
func (d *Diagnosis) descends(p dlq.Place) bool {
	if p.Timeline == d.Server.Timeline {
		return true
	}
	for _, s := range d.Server.Switches {
		if s.Timeline == p.Timeline {
			return p.LSN < s.At
		}
	}
	return false
}

// published is the position below which everything, or of a cut transaction
// something, is in Kafka.
func published(p checkpoint.Position) pglogrepl.LSN {
	if p.Cut() {
		return p.CommitLSN + 1
	}
	return p.EndLSN
}
