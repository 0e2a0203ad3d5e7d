package relay

import (
	"context"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/mutant"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/sink"
)

// fakeSink is a producer of one epoch.
type fakeSink struct {
	p      *process
	id     string
	epoch  int
	begun  bool
	closed bool
	ids    []string // of rows
	stamps []string

	records []*kgo.Record
	wrote   *checkpoint.Checkpoint // the next Begin comes after its ReadBack
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

// probe is what the breaker asks while it is half-open.
func (p *process) probe(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return fault.New(fault.KafkaUnreachable, "killed")
	}
	if err := p.sufferLocked("Probe"); err != nil {
		return err
	}
	p.call("Probe")
	return nil
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
	k.begun, k.ids, k.stamps, k.records = true, nil, nil, nil
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
	k.records = append(k.records, r)
	if r.Topic == dlq.StateTopic(lettersTopic) {
		return // a mark
	}
	// A letter of a second attempt is no row that was read just now.
	if !slices.ContainsFunc(r.Headers, func(h kgo.RecordHeader) bool {
		return h.Key == outbox.HeaderReplayed || h.Key == outbox.HeaderAttempts && string(h.Value) != "1"
	}) {
		k.ids = append(k.ids, string(r.Value))
	}
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
	if no := p.refusal(k.records); no != nil {
		return fault.Wrap(no, fault.TransactionFailed, "produce")
	}
	k.judge(ck)
	c := committed{ids: slices.Clone(k.ids), ck: ck, records: slices.Clone(k.records)}
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
