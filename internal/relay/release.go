package relay

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/sink"
)

// Parked letters are released by the relay itself, because only it can do so
// without a gap or an overlap in the order of their key: between two groups,
// in a transaction of its own that holds the events, their marks and a
// checkpoint that parks the key no longer. Rows of the key that were read
// before are letters by then and part of it; rows that come after go out behind
// it. follow finds out what may go on, pump sends it.

// releaseInterval is how often it is looked whether parked letters may go on.
const releaseInterval = time.Second

// release is what follow has found.
type release struct {
	keys []dlq.Release
	done chan struct{} // closed when it is sent
}

// publishHeld tells follow what is parked.
func (s *session) publishHeld() {
	if was := s.held.Load(); was != nil && len(*was)+len(s.triage.order) == 0 {
		return // as after nearly every commit
	}
	held := make([]dlq.Held, len(s.triage.order))
	for i, k := range s.triage.order {
		held[i] = dlq.Held{
			Hash: k.Hash, From: dlq.Place{Timeline: k.Timeline, LSN: k.LSN, Ordinal: k.Ordinal},
			Letters: k.Letters, Partition: k.Partition, Offset: k.Offset,
		}
	}
	s.held.Store(&held)
	s.Metrics.parked(len(held))
}

// follow looks for letters that may go on, and waits for them to be sent before
// it looks again: what it hands over twice would be sent twice.
func (s *session) follow(ctx context.Context) error {
	t := time.NewTicker(releaseInterval)
	defer t.Stop()
	var last *fault.Code
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		held := *s.held.Load()
		if len(held) == 0 {
			continue
		}
		keys, err := s.Letters.Look(ctx, held)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			// The rest goes on: that parked letters cannot be read, as for want
			// of the right to, holds back no more than them.
			if f := fault.As(err); f.Code != last {
				last = f.Code
				s.log.Warn().Str("code", f.Code.ID).Str("why", f.Reason()).Str("hint", f.Remedy()).Err(err).Int("parked_keys", len(held)).Msg("parked letters cannot be looked for")
			}
		} else {
			last = nil
		}
		if len(keys) == 0 {
			continue
		}
		plan := release{keys: keys, done: make(chan struct{})}
		s.released <- plan // it has room: the one before is done
		s.buf.nudge()
		select {
		case <-plan.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// release sends on what was parked.
func (s *session) release(ctx context.Context, plan release) error {
	defer close(plan.done)
	behind, err := s.sendOn(ctx, plan.keys)
	if err != nil || !behind {
		return err
	}
	// Rows of a key came while follow looked, and were parked: a key that never
	// rests would be parked for good. Nothing is sent while we look here, so
	// what is seen now is all. follow waits for the plan, the look is ours.
	lctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	keys, err := s.Letters.Look(lctx, *s.held.Load())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		s.log.Debug().Err(err).Msg("the rest of the parked letters is looked for later")
	}
	_, err = s.sendOn(ctx, keys)
	return err
}

// catchUp is how long rows may have to wait for a look at parked letters.
const catchUp = 5 * time.Second

// sendOn sends what was found of parked keys. It tells whether one of them
// would be free, had not more of it been parked since.
func (s *session) sendOn(ctx context.Context, keys []dlq.Release) (behind bool, err error) {
	g := &group{pos: s.last.Pos, lastTx: s.last.LastTx}
	changed := false
	for _, r := range keys {
		k := s.triage.parked[r.Hash]
		if k == nil {
			continue
		}
		whole, err := s.onward(ctx, g, k, r.Letters)
		switch {
		case err != nil:
			return false, err
		case !whole || !r.Done:
		case r.Seen == k.Letters:
			s.triage.unpark(r.Hash)
			changed = true
		default:
			behind = true
		}
	}
	if !changed && len(g.marks) == 0 {
		return behind, nil
	}
	n := len(g.released)
	if err := s.deliver(ctx, g, ""); err != nil {
		return false, err
	}
	s.Metrics.released(n)
	s.log.Info().Int("events", n).Int("parked_keys", len(s.triage.order)).Msg("parked letters sent on")
	return behind, nil
}

// makeRoom releases before the first row where as many keys are parked as can
// be: the row that halted the session before comes again at once, and would
// halt this one too, whatever was done about the letters meanwhile.
func (s *session) makeRoom(ctx context.Context) error {
	for s.Letters != nil && s.Letters.Look != nil && len(s.triage.order) == maxParked {
		keys, err := s.Letters.Look(ctx, *s.held.Load())
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			s.log.Warn().Err(err).Msg("parked letters cannot be looked for")
		}
		before := s.last.Seq
		if err := s.release(ctx, release{keys: keys, done: make(chan struct{})}); err != nil || s.last.Seq == before {
			return err
		}
	}
	return nil
}

// onward puts the letters of one key into a group, up to the first that cannot
// go; whole is whether there was none.
func (s *session) onward(ctx context.Context, g *group, k *parkedKey, letters []dlq.HeldLetter) (whole bool, err error) {
	now := time.Now()
	for _, l := range letters {
		rec, err := l.Replay(now)
		if omitted := (*dlq.OmittedError)(nil); errors.As(err, &omitted) {
			s.log.Warn().Str("event_id", omitted.ID).Err(err).Msg("parked letter cannot be sent on, its key stays parked: outbox-relay dlq replay takes it from the table")
			return false, nil
		}
		if err != nil {
			return false, err
		}
		mark := dlq.Mark{
			ID: l.ID(), Action: dlq.Released, At: now.UTC().Truncate(time.Microsecond), By: "relay", Attempts: l.Attempts,
			Letter: l.At, Topic: rec.Topic,
		}
		refusal := s.triage.refusal(rec)
		switch {
		case refusal != nil:
			// It waited for too long, or the topic has changed: a letter of its
			// own takes its place, and blocks what is behind.
			if rec, err = s.Letters.Write(ctx, s.info, rec, refusal); err != nil {
				return false, err
			}
			s.triage.undate(rec)
			mark.Action, mark.Topic, mark.Because = dlq.Purged, "", "a broker refused it; a newer letter of the event says why"
			k.Letters++
		case s.info.Catalog != nil:
			if err := s.info.Catalog.Ensure(ctx, rec.Topic); fault.Has(err, fault.KafkaTopicMissing) {
				s.log.Warn().Str("event_id", l.ID()).Str("topic", rec.Topic).Err(err).Msg("parked letter cannot be sent on, its key stays parked")
				return false, nil
			} else if err != nil {
				return false, err
			}
		}
		if refusal == nil {
			if n, ok := l.Partition.Get(); ok {
				sink.SetPartition(rec, n)
			}
			rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: outbox.HeaderCheckpoint})
		}
		m, err := mark.Record(dlq.StateTopic(s.Letters.Topic))
		if err != nil {
			return false, fault.Wrap(err, fault.Unclassified, "mark a letter")
		}
		g.released, g.marks = append(g.released, rec), append(g.marks, m)
		if refusal != nil {
			return false, nil
		}
	}
	return true, nil
}
