package status

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/slots"
)

// nothingToDo is the next command of a relay that is well.
const nothingToDo = "none needed"

// troubleOf shows an error.
func troubleOf(err error) *Trouble {
	f := fault.As(err)
	return &Trouble{
		Code: f.Code.ID, Name: f.Code.Name, Detail: strings.TrimPrefix(f.Error(), f.Code.ID+" "), Why: f.Reason(), Fix: f.Remedy(),
	}
}

// Judge fills in findings and the next command: the first finding is the one to
// begin with.
func (p *Picture) Judge() {
	p.Findings = []Trouble{}
	add := func(t *Trouble) {
		for _, f := range p.Findings {
			if f.Code == t.Code {
				return // two sources tell the same
			}
		}
		p.Findings = append(p.Findings, *t)
	}
	find := func(code *fault.Code, fix, format string, args ...any) {
		f := fault.New(code, format, args...)
		if fix != "" {
			f = f.WithFix("%s", fix)
		}
		add(troubleOf(f))
	}
	proc := p.Process.Value
	if proc != nil && proc.Trouble != nil {
		add(proc.Trouble)
	}
	if p.Postgres.Error != nil {
		add(p.Postgres.Error)
	}
	if p.Kafka.Error != nil {
		add(p.Kafka.Error)
	}
	p.together(find)
	if proc != nil && proc.Slot != nil {
		for _, t := range proc.Slot.Findings {
			add(&t)
		}
	}
	p.Next = p.next()
}

// together judges what Postgres and Kafka say by the rules of a start.
func (p *Picture) together(find func(code *fault.Code, fix, format string, args ...any)) {
	pg, kf := p.Postgres.Value, p.Kafka.Value
	if pg == nil {
		return
	}
	slot := pg.Slot
	if kf != nil {
		last := kf.Last
		switch {
		case slot == nil && last == nil:
			find(fault.NotInitialised, "", "relay %s has neither slot nor checkpoint", p.Relay)
			return
		case slot == nil:
			find(fault.SlotMissing, "", "checkpoint %d is at %s, and slot %s does not exist", last.Seq, last.Pos, p.Slot)
			return
		case last == nil:
			find(fault.CheckpointMissing, "", "slot %s stands at %s, and there is no checkpoint", p.Slot, slot.ConfirmedLSN)
		case last.Source.SystemID != pg.Identity.SystemID:
			find(fault.IdentityChanged, "", "the checkpoint is of system %s, the server is %s", last.Source.SystemID, pg.Identity.SystemID)
		case last.Pos.Timeline != pg.Identity.Timeline:
			// Which of them is right takes the history of the timelines.
		case pg.Position.ConfirmedLSN > last.Pos.EndLSN && !pg.Position.Active:
			// While it streams the two are not read at the same moment.
			find(fault.Gap, fmt.Sprintf("docs/errors.md#obx-4008; outbox-relay serve --accept-gap %s:%s accepts the loss of exactly that range", last.Pos.EndLSN, pg.Position.ConfirmedLSN), "the slot is at %s, the checkpoint at %s", pg.Position.ConfirmedLSN, last.Pos.EndLSN)
		}
	} else if slot == nil {
		find(fault.SlotMissing, "outbox-relay init, if this relay is new", "slot %s does not exist", p.Slot)
		return
	}
	switch slot.Outlook.Verdict {
	case slots.Lost:
		find(fault.SlotLost, "", "slot %s: %s", p.Slot, slot.Outlook.Text)
	case slots.Unreserved, slots.Waits, slots.Stands:
		if proc := p.Process.Value; proc != nil && proc.Trouble != nil {
			return // the relay says itself why it does not move
		}
		find(fault.SlotIdle, slot.Outlook.Next, "slot %s: %s", p.Slot, slot.Outlook.Text)
	}
}

// next is the command to type.
func (p *Picture) next() string {
	if len(p.Findings) > 0 {
		return p.Findings[0].Fix
	}
	if p.Postgres.Value == nil || p.Kafka.Value == nil {
		return "wait for the answers"
	}
	return nothingToDo
}

// state is the relay's state in words.
func (p *Picture) state() string {
	switch proc := p.Process.Value; {
	case proc != nil:
		parts := []string{proc.State}
		if proc.Role != "" && proc.Role != proc.State {
			parts = append(parts, proc.Role)
		}
		if since, err := time.Parse(time.RFC3339, proc.Since); err == nil {
			parts = append(parts, "for "+slots.Span(p.Time.Sub(since)))
		}
		if proc.Slot != nil && proc.Slot.Paused {
			parts = append(parts, "paused by "+proc.Slot.PausedBy)
		}
		return fmt.Sprintf("%s (%s, %s)", strings.Join(parts, ", "), proc.Addr, proc.Version)
	case p.Process.Error != nil:
		return "does not answer: " + p.Process.Error.Detail
	}
	return "..."
}
