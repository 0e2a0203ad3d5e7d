package relay

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/mutant"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
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
		if w.rng.IntN(4) == 0 {
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
		t := &replication.Tx{XID: x.xid, CommitLSN: x.commit, EndLSN: end, Rows: rows, Last: last}
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
	p.call("Confirm %s", end)
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

// fakeSink is a producer of one epoch.
type fakeSink struct {
	p      *process
	id     string
	epoch  int
	begun  bool
	closed bool
	ids    []string
	stamps []string
	wrote  *checkpoint.Checkpoint // the next Begin comes after its ReadBack
}

func (p *process) openSink(context.Context) (Sink, sink.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.sufferLocked("OpenSink"); err != nil {
		return nil, sink.Session{}, err
	}
	if p.holder == nil || p.holder.p != p {
		return nil, sink.Session{}, fault.New(fault.PostgresLost, "the slot is not ours, so nobody is fenced")
	}
	p.call("OpenSink")
	// The fence decides the fate of what was under way.
	p.epoch++
	if p.late != nil && p.rng.IntN(2) == 0 {
		p.log = append(p.log, *p.late)
	}
	p.late = nil
	ck := p.last()
	k := &fakeSink{p: p, epoch: p.epoch, id: "session-" + strconv.Itoa(p.epoch)}
	info := sink.Session{
		ID: k.id, No: uint64(p.epoch), ClusterID: "c", TopicID: "t",
		State: checkpoint.State{Last: &ck, SessionNo: uint64(p.epoch - 1)},
	}
	if err := p.sufferLocked("opened"); err != nil {
		return nil, sink.Session{}, err
	}
	return k, info, nil
}

func (k *fakeSink) fenced() error {
	switch {
	case k.p.dead:
		return fault.New(fault.KafkaUnreachable, "killed")
	case k.epoch != k.p.epoch:
		return fault.New(fault.Fenced, "epoch %d, and %d is newer", k.epoch, k.p.epoch)
	}
	return nil
}

func (k *fakeSink) Begin() error {
	k.p.mu.Lock()
	defer k.p.mu.Unlock()
	if err := k.p.sufferLocked("Begin"); err != nil {
		return err
	}
	k.p.call("Begin")
	if k.begun || k.closed {
		k.p.violate("Begin inside a transaction or after Close")
	}
	if k.wrote != nil {
		k.p.violate("Begin before checkpoint %d was read back", k.wrote.Seq)
	}
	k.begun, k.ids, k.stamps = true, nil, nil
	return nil
}

func (k *fakeSink) Add(r *kgo.Record) {
	k.p.mu.Lock()
	defer k.p.mu.Unlock()
	_ = k.p.sufferLocked("Add")
	k.p.call("Add %s", r.Value)
	if !k.begun {
		k.p.violate("Add outside a transaction")
	}
	k.ids = append(k.ids, string(r.Value))
	last := r.Headers[len(r.Headers)-1]
	if last.Key != outbox.HeaderCheckpoint {
		k.p.violate("the last header is %s", last.Key)
	}
	k.stamps = append(k.stamps, string(last.Value))
}

func (k *fakeSink) Commit(ctx context.Context, ck checkpoint.Checkpoint) error {
	p := k.p
	if p.stall != nil {
		if err := p.stall(ctx); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := ck.Record("topic", "name"); err != nil {
		return fault.Wrap(err, fault.Unclassified, "seal transaction")
	}
	verdict := p.at("Commit")
	p.call("Commit %d", ck.Seq)
	if err := k.fenced(); err != nil {
		return err
	}
	k.begun = false
	k.judge(ck)
	c := committed{ids: slices.Clone(k.ids), ck: ck}
	switch verdict {
	case fail:
		return fault.New(fault.TransactionFailed, "injected: a record was refused")
	case lostAsk:
		return fault.New(fault.OutcomeUnknown, "injected: the request was lost")
	case lateAsk:
		p.late = &c
		return fault.New(fault.OutcomeUnknown, "injected: the request is late")
	case panics, kill:
		if p.rng.IntN(2) == 0 {
			p.late = &c // sent with the last breath
		}
		p.carry(verdict, "Commit")
	case steal:
		p.steal()
	}
	p.log = append(p.log, c)
	if verdict == lostAnswer {
		return fault.New(fault.OutcomeUnknown, "injected: the answer was lost")
	}
	k.wrote = &ck
	return p.sufferLocked("committed")
}

// judge looks whether the checkpoint is the one that follows.
func (k *fakeSink) judge(ck checkpoint.Checkpoint) {
	p, last := k.p, k.p.last()
	for _, s := range k.stamps {
		if s != strconv.FormatUint(ck.Seq, 10) {
			p.violate("record stamped %q in the transaction of checkpoint %d", s, ck.Seq)
		}
	}
	switch {
	case ck.Seq != last.Seq+1 && !mutant.TrustCommitError: // which looks at nothing
		p.violate("checkpoint %d follows %d", ck.Seq, last.Seq)
	case ck.Pos.Compare(last.Pos) < 0:
		p.violate("position %s follows %s", ck.Pos, last.Pos)
	case ck.Rows != uint64(len(k.ids)) || ck.RowsTotal != last.RowsTotal+ck.Rows:
		p.violate("checkpoint %d counts %d rows of %d, and %d were sent after %d", ck.Seq, ck.Rows, ck.RowsTotal, len(k.ids), last.RowsTotal)
	case ck.SessionID != k.id || ck.SessionNo != uint64(k.epoch) || ck.Source != identity:
		p.violate("checkpoint %d names session %s and source %+v", ck.Seq, ck.SessionID, ck.Source)
	}
}

func (k *fakeSink) ReadBack(_ context.Context, ck checkpoint.Checkpoint) error {
	k.p.mu.Lock()
	defer k.p.mu.Unlock()
	if err := k.p.sufferLocked("ReadBack"); err != nil {
		return err
	}
	k.p.call("ReadBack %d", ck.Seq)
	if err := k.fenced(); err != nil {
		return err
	}
	if k.p.last().Seq != ck.Seq {
		return fault.New(fault.ReadBackTimeout, "checkpoint %d is not there", ck.Seq)
	}
	k.wrote = nil
	return k.p.sufferLocked("read back")
}

func (k *fakeSink) Close() {
	k.p.mu.Lock()
	defer k.p.mu.Unlock()
	k.p.call("Close")
	k.closed = true
}
