package relay

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// Refill makes a relay publish rows that no slot sends any more, in place of the
// stream, and end. Everything else is as in any session: the slot is held, the
// producer has fenced every other, each group is one Kafka transaction with a
// checkpoint, and a failure leads to another session, which asks Begin again
// where it stands.
//
// While it lasts the checkpoint has its Recovery set, and its position is cut:
// the ordinal counts the rows that were published. A relay that streams refuses
// it (RecoveryUnderWay).
type Refill interface {
	// Begin is asked by each session, once Kafka is known and before anything
	// is published.
	Begin(ctx context.Context, st replication.State, sess sink.Session) (Filling, error)
	// Next returns further rows, most at most, or nil when there are none left.
	// Their Ord grows from part to part. CommitLSN is the same for all of a
	// Filling.
	Next(ctx context.Context, most int) (*replication.Tx, error)
	// Committed is told of each group whose checkpoint was read back.
	Committed(checkpoint.Checkpoint)
}

// Filling is what a session of a Refill goes by.
type Filling struct {
	// Base is the checkpoint that the next one follows, with Recovery set.
	Base checkpoint.Checkpoint
	// Begun is the decision that the first checkpoint carries; empty if it was
	// written already.
	Begun string
	// End is where a relay that streams takes over.
	End checkpoint.Position
	// Ended is the decision that the last checkpoint carries, and Audit what is
	// written beside the first and the last; base is the newest checkpoint.
	Ended func(base checkpoint.Checkpoint) string
	Audit func(base checkpoint.Checkpoint, done bool) (*kgo.Record, error)
}

// ErrRefilled ends Run after a Refill, which may return it from Begin: that the
// last checkpoint was committed is sometimes known to the next session only.
var ErrRefilled = errors.New("refilled")

// refill is run for a relay with a Refill. When soft ends it stops between two
// groups, with what is left for the next time.
func (s *session) refill(ctx, soft context.Context) error {
	st := s.src.State()
	f, err := s.Refill.Begin(ctx, st, s.info)
	if err != nil {
		return err
	}
	translator, err := s.NewTranslator(st, s.info)
	if err != nil {
		return err
	}
	s.last = s.next(f.Base, st)
	s.last.Rebased = f.Base.Rebased
	s.opened, s.triage, s.released = s.info, s.newTriage(f.Base, s.info), make(chan release, 1)
	s.publishHeld()
	s.log = s.log.With().Uint64("session", s.info.No).Logger()
	s.log.Info().Str("lsn", f.Base.Pos.String()).Str("to", f.End.String()).Bool("degraded", s.info.Degraded).Str("host", st.Host).Msg("recovering")
	s.Metrics.guarantee(s.info.Degraded)
	if f.Begun != "" {
		// The decision comes before the first row that depends on it.
		if err := s.decide(ctx, f, f.Base.Pos, f.Begun, false); err != nil {
			return err
		}
		crash.Point(crash.RecoveryBegun)
	}
	for soft.Err() == nil {
		g, err := s.fill(ctx, translator)
		if err != nil {
			return err
		}
		if g.empty() {
			s.last.Recovery, s.last.LastTx = nil, checkpoint.Transaction{}
			if err := s.decide(ctx, f, f.End, f.Ended(s.last), true); err != nil {
				return err
			}
			crash.Point(crash.RecoveryEnded)
			return ErrRefilled
		}
		if err := s.triage.sort(ctx, g); err != nil {
			return err
		}
		if err := s.deliver(ctx, g, ""); err != nil {
			return err
		}
		s.Refill.Committed(s.last)
		crash.Point(crash.RecoveryGroup)
	}
	return nil
}

// decide writes a checkpoint without rows, and what is to be kept of it.
func (s *session) decide(ctx context.Context, f Filling, pos checkpoint.Position, override string, done bool) error {
	g := &group{pos: pos, lastTx: s.last.LastTx}
	if f.Audit != nil {
		rec, err := f.Audit(s.last, done)
		if err != nil {
			return fault.Wrap(err, fault.Unclassified, "write down what was done")
		}
		g.marks = append(g.marks, rec)
	}
	if err := s.deliver(ctx, g, override); err != nil {
		return err
	}
	s.last.Rebased = false // it holds for the step to this checkpoint
	return nil
}

// fill gathers the next group. It is empty when there are no rows left.
func (s *session) fill(ctx context.Context, t RowTranslator) (*group, error) {
	g := &group{pos: s.last.Pos, lastTx: s.last.LastTx, oldest: time.Time{}}
	for len(g.records) < s.Limits.Max && g.bytes < s.Limits.MaxBytes {
		part, err := s.Refill.Next(ctx, s.Limits.Max-len(g.records))
		if err != nil {
			return nil, err
		}
		if part == nil {
			break
		}
		records, letters, err := t.Translate(ctx, part, make([]*kgo.Record, 0, len(part.Rows)))
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			g.bytes += size(r)
		}
		g.records = append(g.records, records...)
		g.letters += letters
		g.pos.CommitLSN, g.pos.Ordinal = part.CommitLSN, part.Rows[len(part.Rows)-1].Ord
	}
	return g, nil
}
