package main

import (
	"context"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/relay"
)

// retryLetters is OUTBOX_DLQ_RETRY: while this replica leads, it replays dead
// letters whose time has come. What it cannot go on with is for a person to
// look at, and no reason to stop the relay.
func (s *service) retryLetters(ctx context.Context, d *letterDesk) error {
	sched := d.scheduler()
	sched.Active = s.leading
	if err := sched.Run(ctx); err != nil {
		f := fault.As(err)
		d.replayer.Log.Error().Str("code", f.Code.ID).Str("why", f.Reason()).Str("hint", f.Remedy()).Err(err).Msg("dead letters are not retried any more")
	}
	return nil
}

func (s *service) leading() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now == relay.Streaming
}
