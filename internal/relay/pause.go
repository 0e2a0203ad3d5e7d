package relay

import (
	"context"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// A relay that is paused holds its slot and answers Postgres, so that no other
// replica goes on in its place, and reads on until its memory is full. It opens
// no Kafka session, begins no transaction and confirms nothing, heartbeats
// included; a transaction that has begun is finished. Postgres is not held up by
// it when it stops: the source leaves a server that wants to (replication).

func (r *Relay) pausedNow() (*fault.Error, <-chan struct{}) {
	if r.Paused == nil {
		return nil, nil
	}
	return r.Paused()
}

// hold waits while the relay is paused and goes on in the given state. It
// returns true if it was told to drain instead.
func (s *session) hold(ctx context.Context, drain <-chan struct{}, then State) (drained bool, err error) {
	why, changed := s.pausedNow()
	if why == nil {
		return false, nil
	}
	for ; why != nil; why, changed = s.pausedNow() {
		s.log.Warn().Fields(why.Fields()).Msg(why.Error())
		s.state(Paused, why)
		select {
		case <-changed:
		case <-drain:
			return true, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	s.log.Info().Msg("resumed")
	s.state(then, nil)
	return false, nil
}

// heed lets pump look round when the relay is paused: it may wait for rows.
func (s *session) heed(ctx context.Context) error {
	for {
		why, changed := s.pausedNow()
		if why != nil {
			s.buf.nudge()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
