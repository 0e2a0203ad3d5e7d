package relay

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/mutant"
	"github.com/holdwall/outbox-relay/sink"
)

// deliver is the transaction: the order of these calls is the product.
func (s *session) deliver(ctx context.Context, g *group, override string) error {
	ck := s.last
	ck.Seq++
	ck.Pos, ck.LastTx = g.pos, g.lastTx
	ck.Rows = uint64(len(g.records))
	ck.RowsTotal += ck.Rows
	ck.LettersTotal += g.letters
	ck.Time, ck.Override = time.Now(), override
	ck.Parked = s.triage.keys()

	began := time.Now()
	if mutant.ConfirmEarly {
		s.src.Confirm(ck.Pos.EndLSN)
	}
	if err := s.commit(ctx, g, ck); err != nil {
		if !mutant.TrustCommitError || !fault.Has(err, fault.OutcomeUnknown) {
			return err
		}
		s.sink.Close()
		if s.sink, s.info, err = s.OpenSink(ctx); err != nil {
			return err
		}
		ck.SessionID, ck.SessionNo = s.info.ID, s.info.No
		ck.Seq += 1000 // whatever is there, it does not look
		if err := s.commit(ctx, g, ck); err != nil {
			return err
		}
	}
	if err := s.sink.ReadBack(ctx, ck); err != nil {
		return err
	}
	s.src.Confirm(ck.Pos.EndLSN)
	s.attempt = 0 // not before: a session that begins and cannot commit is a failure too
	s.triage.committed()
	if ck.Pos.Cut() {
		crash.Point(crash.CutCommitted)
	}
	s.last = ck
	s.publishHeld()
	s.delivered(g, ck)
	s.tellLetters(g, ck.Time)
	if s.OnCommit != nil {
		s.OnCommit(Commit{Checkpoint: ck, Records: g.records, Released: g.released, Letters: g.letters, Oldest: g.oldest, Began: began, Ended: time.Now()})
	}
	return nil
}

// commit puts a group and its checkpoint into one Kafka transaction.
func (s *session) commit(ctx context.Context, g *group, ck checkpoint.Checkpoint) error {
	if err := s.sink.Begin(); err != nil {
		return err
	}
	number := strconv.AppendUint(nil, ck.Seq, 10)
	for _, r := range g.records {
		sink.Stamp(r, number)
		s.sink.Add(r)
	}
	for _, r := range g.released {
		sink.Stamp(r, number)
		s.sink.Add(r)
	}
	for _, r := range g.marks {
		s.sink.Add(r)
	}
	err := s.sink.Commit(ctx, ck)
	if no := (*sink.RefusedError)(nil); errors.As(err, &no) {
		// The batches behind the first that is refused are not judged any more:
		// one search for all.
		no.Suspects = append(g.records[:len(g.records):len(g.records)], g.released...)
	}
	return err
}
