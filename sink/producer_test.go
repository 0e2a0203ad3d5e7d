package sink_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/sink"
)

// sessionAt is the session after it has committed c.
func sessionAt(s sink.Session, c checkpoint.Checkpoint) sink.Session {
	s.State.Last = &c
	return s
}

// Transaction after transaction: rows and checkpoint become visible together.
func TestCommitAndReadBack(t *testing.T) {
	r := newRig(t)
	p, s := r.open(t)
	var want []string
	for _, v := range []string{"a", "b", "c"} {
		c := follow(s, 2)
		if err := p.write(t.Context(), t, c, event(v, 0), event(v+v, 1)); err != nil {
			t.Fatal(err)
		}
		if err := p.ReadBack(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		want = append(want, v, v+v)
		got := r.committed(t, events)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("committed: %v, want %v", got, want)
		}
		s = sessionAt(s, c)
	}
}

// The client would commit what succeeded. One record that was not acknowledged
// is enough for nothing to be committed; nothing stays open; the relay tries
// again, because another session may see another limit or another leader.
func TestCommitRequiresEveryRecord(t *testing.T) {
	for name, tc := range map[string]struct {
		fault kfake.Fault
		code  *fault.Code
	}{
		"a record is refused":        {kfake.Fault{Topic: events, Partitions: []int32{1}, Err: kerr.InvalidRecord}, fault.TransactionFailed},
		"a batch is too large":       {kfake.Fault{Topic: events, Partitions: []int32{1}, Err: kerr.MessageTooLarge}, fault.TransactionFailed},
		"an unknown answer":          {kfake.Fault{Topic: events, Partitions: []int32{1}, Err: kerr.InvalidRequiredAcks}, fault.TransactionFailed},
		"no right to write":          {kfake.Fault{Topic: events, Partitions: []int32{1}, Err: kerr.TopicAuthorizationFailed}, fault.KafkaDenied},
		"the checkpoint is refused":  {kfake.Fault{Topic: ckpt, Err: kerr.InvalidRecord}, fault.TransactionFailed},
		"the producer is fenced":     {kfake.Fault{Topic: events, Partitions: []int32{1}, Err: kerr.ProducerFenced}, fault.Fenced},
		"the transaction is aborted": {kfake.Fault{Topic: events, Partitions: []int32{1}, Err: kerr.InvalidTxnState}, fault.TransactionFailed},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			p, s := r.open(t)
			tc.fault.Keys = []kmsg.Key{kmsg.Produce}
			h := r.cluster.Fault(tc.fault)
			err := p.write(t.Context(), t, follow(s, 2), event("good", 0), event("bad", 1))
			if !fault.Has(err, tc.code) {
				t.Errorf("got %v, want %s", err, tc.code.ID)
			}
			if tc.code.Class != fault.Retry {
				t.Errorf("%s is of class %s", tc.code.ID, tc.code.Class)
			}
			if h.Hits() != 1 {
				t.Errorf("%d requests were spoiled", h.Hits())
			}
			p.Close()
			_, s = r.open(t)
			if s.State.Last != nil {
				t.Errorf("found %+v", s.State.Last)
			}
			if got := r.committed(t, events); len(got) > 0 {
				t.Errorf("committed: %v", got)
			}
		})
	}
}

// A produce whose answer is an error although it was applied is tried again by
// the client, without a duplicate.
func TestProduceAnsweredWithTimeout(t *testing.T) {
	r := newRig(t)
	p, s := r.open(t)
	h := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: events, Err: kerr.RequestTimedOut})
	if err := p.write(t.Context(), t, follow(s, 1), event("once", 0)); err != nil {
		t.Fatal(err)
	}
	if h.Hits() != 1 {
		t.Errorf("%d requests were spoiled", h.Hits())
	}
	if got := r.committed(t, events); !slices.Equal(got, []string{"once"}) {
		t.Errorf("committed: %v", got)
	}
}

// Both outcomes of a doubtful commit look the same to the one who asked, and
// the next session tells them apart.
func TestDoubtfulCommit(t *testing.T) {
	for name, applied := range map[string]bool{"the answer is lost": true, "the request is lost": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			var line commitLine
			p, s := r.open(t, line.option())
			line.answer.Store(applied)
			line.request.Store(!applied)
			c := follow(s, 1)
			start := time.Now()
			err := p.write(t.Context(), t, c, event("doubt", 0))
			if line.lost.Load() != 1 {
				t.Fatalf("%d requests were spoiled", line.lost.Load())
			}
			if !fault.Has(err, fault.OutcomeUnknown) {
				t.Fatalf("got %v, want %s", err, fault.OutcomeUnknown.ID)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("doubt was seen only after %s", d)
			}
			p.Close()
			_, s = r.open(t)
			found := s.State.Last != nil && s.State.Last.Seq == c.Seq
			if found != applied {
				t.Errorf("the next session finds the checkpoint: %t, want %t", found, applied)
			}
			if got := r.committed(t, events); (len(got) == 1) != applied {
				t.Errorf("committed: %v", got)
			}
		})
	}
}

// A broker's error is no better known than silence.
func TestCommitAnsweredWithAnError(t *testing.T) {
	for _, tc := range []struct {
		err  *kerr.Error
		code *fault.Code
	}{
		{kerr.UnknownServerError, fault.OutcomeUnknown},
		{kerr.InvalidTxnState, fault.OutcomeUnknown},
		{kerr.TransactionalIDAuthorizationFailed, fault.OutcomeUnknown},
		{kerr.CoordinatorNotAvailable, fault.OutcomeUnknown},
		{kerr.ProducerFenced, fault.Fenced},
		{kerr.InvalidProducerEpoch, fault.Fenced},
	} {
		t.Run(tc.err.Message, func(t *testing.T) {
			r := newRig(t)
			p, s := r.open(t)
			r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: tc.err, Count: -1})
			err := p.write(t.Context(), t, follow(s, 1), event("doubt", 0))
			if !fault.Has(err, tc.code) {
				t.Errorf("got %v, want %s", err, tc.code.ID)
			}
		})
	}
}

// A commit that was asked for is not given up with its caller: it would be a
// commit in doubt for nothing.
func TestCommitIsNotCancelledHalfway(t *testing.T) {
	r := newRig(t)
	p, s := r.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.cluster.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		cancel()
		return nil, nil, false
	})
	if err := p.write(ctx, t, follow(s, 1), event("kept", 0)); err != nil {
		t.Errorf("commit: %v", err)
	}
	if ctx.Err() == nil {
		t.Fatal("the commit was not asked for")
	}
	if got := r.committed(t, events); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("committed: %v", got)
	}
}

// Before that it is: nothing was asked for yet, and Close leaves nothing open.
func TestCancelBeforeCommit(t *testing.T) {
	r := newRig(t)
	p, s := r.open(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	ends := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Observe: true, Count: -1})
	r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: ckpt, Err: kerr.NotLeaderForPartition, Count: -1, When: func(kmsg.Request) bool {
		cancel(errors.New("stop"))
		return true
	}})
	if err := p.write(ctx, t, follow(s, 1), event("given up", 0)); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	if ends.Hits() > 0 {
		t.Error("EndTxn was sent")
	}
	p.Close()
	if ends.Hits() != 1 {
		t.Errorf("Close sent %d EndTxn", ends.Hits())
	}
	if got := r.committed(t, events); len(got) > 0 {
		t.Errorf("committed: %v", got)
	}
}

// A broker that does not acknowledge is left long before it would abort.
func TestProduceTimesOut(t *testing.T) {
	r := newRig(t)
	r.cfg.TransactionTimeout = time.Second
	p, s := r.open(t)
	h := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: events, Err: kerr.NotEnoughReplicas, Count: -1})
	start := time.Now()
	err := p.write(t.Context(), t, follow(s, 1), event("stuck", 0))
	if !fault.Has(err, fault.KafkaUnreachable) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d < 400*time.Millisecond || d > 900*time.Millisecond {
		t.Errorf("given up after %s", d)
	}
	h.Remove()
}

// What is not there in time is no reason to believe anything.
func TestReadBackTimesOut(t *testing.T) {
	r := newRig(t)
	r.cfg.ReadBackTimeout = 200 * time.Millisecond
	p, s := r.open(t)
	start := time.Now()
	if err := p.ReadBack(t.Context(), follow(s, 0)); !fault.Has(err, fault.ReadBackTimeout) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("given up after %s", d)
	}
}

// A checkpoint of somebody else, or his barrier, where ours should be.
func TestReadBackSeesATakeover(t *testing.T) {
	r := newRig(t)
	p, s := r.open(t)
	c := follow(s, 0)
	if err := p.write(t.Context(), t, c); err != nil {
		t.Fatal(err)
	}
	if err := p.ReadBack(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	r.open(t)
	if err := p.ReadBack(t.Context(), follow(sessionAt(s, c), 0)); !fault.Has(err, fault.Fenced) {
		t.Errorf("got %v", err)
	}
}

// A checkpoint that breaks an invariant is not sent, and nothing with it.
func TestCommitRefusesABadCheckpoint(t *testing.T) {
	r := newRig(t)
	p, s := r.open(t)
	c := follow(s, 1)
	c.Pos.EndLSN = 0
	if err := p.write(t.Context(), t, c, event("lost", 0)); fault.CodeOf(err).Class != fault.Halt {
		t.Errorf("got %v", err)
	}
	p.Close()
	if got := r.committed(t, events); len(got) > 0 {
		t.Errorf("committed: %v", got)
	}
}
