package relay

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// fakeSource streams the world's history as a slot would: from the position
// that the slot had when it was taken, less what Resume drops.
type fakeSource struct {
	p     *process
	state replication.State

	resumed bool
	from    replication.Resume
	queue   []*replication.Tx
	sent    int  // transactions of the history that were queued
	seen    bool // the witness came
	idled   pglogrepl.LSN
	told    pglogrepl.LSN // by Confirm
	ended   chan struct{} // closed by lose
	lost    sync.Once
	cause   error
}

func (p *process) openSource(ctx context.Context) (Source, error) {
	for {
		p.mu.Lock()
		if p.dead {
			p.mu.Unlock()
			return nil, fault.New(fault.Panicked, "killed")
		}
		if p.holder == nil {
			defer p.mu.Unlock()
			if errs := p.errs["OpenSource"]; len(errs) > 0 {
				p.errs["OpenSource"] = errs[1:]
				return nil, errs[0]
			}
			if v := p.at("OpenSource"); v != pass && v != steal {
				p.dead = v == kill // nothing runs yet that would have to be guarded
				return nil, fault.New(fault.PostgresUnreachable, "injected")
			}
			p.call("OpenSource")
			flushed := max(p.flushed, p.end(), p.slot, p.last().Pos.EndLSN)
			s := &fakeSource{p: p, ended: make(chan struct{}), state: replication.State{
				SystemID: "7", Timeline: 1, Database: "db", FlushLSN: flushed, OptionsHash: "h",
				Slot: replication.Slot{Name: "slot", ConfirmedLSN: p.slot},
			}}
			p.holder = s
			return s, nil
		}
		freed, standby := p.freed, p.standby
		p.mu.Unlock()
		standby()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *fakeSource) State() replication.State { return s.state }

// lose ends the connection.
func (s *fakeSource) lose() {
	s.lost.Do(func() {
		s.cause = fault.New(fault.PostgresLost, "injected: the connection ended")
		close(s.ended)
	})
}

func (s *fakeSource) Run(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-s.ended:
		err = s.cause
	}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.call("Source.Run ends")
	s.p.release(s)
	return err
}

func (s *fakeSource) Resume(r replication.Resume) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.resumed {
		s.p.violate("Resume was called twice")
	}
	s.p.call("Resume")
	s.resumed, s.from, s.seen = true, r, r.WitnessLSN == 0
	// A walsender greets with the position that it starts from.
	s.idle(s.state.Slot.ConfirmedLSN, false)
}

func (s *fakeSource) idle(end pglogrepl.LSN, reply bool) {
	if !s.seen && end > s.from.WitnessLSN {
		s.p.violate("idle at %s, and the witness at %s did not come", end, s.from.WitnessLSN)
	}
	if end >= s.from.Floor {
		s.queue = append(s.queue, &replication.Tx{Idle: true, EndLSN: end, ReplyAsked: reply})
	}
}

// more queues the next transaction of the history, in parts. It returns how
// long after its predecessor it comes, and false if there is none.
func (s *fakeSource) more() (*tx, error) {
	w := s.p.world
	for s.sent < len(w.history) {
		x := &w.history[s.sent]
		s.sent++
		if x.commit < s.state.Slot.ConfirmedLSN {
			continue // the server skips it
		}
		if !s.seen && x.commit >= s.from.WitnessLSN {
			if x.commit != s.from.WitnessLSN || x.xid != s.from.WitnessXID {
				return nil, fault.New(fault.HistoryMismatch, "expected %d at %s, have %d at %s", s.from.WitnessXID, s.from.WitnessLSN, x.xid, x.commit)
			}
			s.seen = true
		}
		if w.chatty && w.rng.IntN(4) == 0 {
			s.idle(x.commit-8, w.rng.IntN(2) == 0)
		}
		s.parts(x)
		return x, nil
	}
	if end := max(w.idleEnd, w.end()); end > s.idled {
		s.idled = end
		s.idle(end, w.reply)
		return &tx{}, nil
	}
	return nil, nil
}

// parts is what the assembler of package replication does.
func (s *fakeSource) parts(x *tx) {
	skipOrd := uint64(0)
	if s.from.CutOrd > 0 && s.from.CutLSN == x.commit {
		skipOrd = s.from.CutOrd
	}
	var rows []replication.Row
	part := func(last bool, end pglogrepl.LSN) {
		t := &replication.Tx{XID: x.xid, CommitLSN: x.commit, EndLSN: end, CommitTime: x.at, Rows: rows, Last: last}
		s.queue, rows = append(s.queue, t), nil
	}
	if x.commit >= s.from.Floor {
		for i, ord := range x.rows {
			if ord <= skipOrd {
				continue
			}
			if len(rows) == s.p.parts {
				part(false, 0)
			}
			id := fmt.Sprintf("%d/%d", x.xid, ord)
			rows = append(rows, replication.Row{Values: [][]byte{[]byte(id)}, Ord: ord, Seq: uint64(i + 1)})
		}
	}
	switch {
	case len(rows) > 0 || skipOrd > 0:
		part(true, x.end)
	case x.commit >= s.from.Floor:
		s.idle(x.end, false)
	}
}

func (s *fakeSource) Next(ctx context.Context) (*replication.Tx, error) {
	for {
		t, after, grown, err := s.poll()
		switch {
		case t != nil || err != nil:
			return t, err
		case after > 0:
			if err := pause(ctx, after); err != nil {
				return nil, err
			}
			continue
		case grown == nil:
			continue
		}
		select {
		case <-grown:
		case <-s.ended:
			return nil, s.cause
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// poll returns what is queued, or how long the next transaction takes to come,
// or what to wait for if there is none.
func (s *fakeSource) poll() (t *replication.Tx, after time.Duration, grown <-chan struct{}, err error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if err := s.p.sufferLocked("Next"); err != nil {
		return nil, 0, nil, err
	}
	if len(s.queue) > 0 {
		t = s.queue[0]
		s.queue = s.queue[1:]
		return t, 0, nil, nil
	}
	x, err := s.more()
	switch {
	case err != nil:
		return nil, 0, nil, err
	case x != nil:
		return nil, x.after, nil, nil
	}
	return nil, 0, s.p.grown, nil
}

func (s *fakeSource) Confirm(end pglogrepl.LSN) {
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.sufferLocked("Confirm")
	if end > s.told { // to say the same again is nothing
		s.told = end
		p.call("Confirm %s", end)
	}
	if p.dead {
		return
	}
	if ck := p.last().Pos.EndLSN; end > ck {
		p.violate("confirmed %s, and the checkpoint is at %s", end, ck)
	}
	if p.holder != s {
		return // the connection is gone, only the relay does not know
	}
	p.slot = max(p.slot, end)
	if p.slot >= p.end() {
		select {
		case <-p.caught:
		default:
			close(p.caught)
		}
	}
	_ = p.sufferLocked("confirmed")
}
