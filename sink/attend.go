package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// patience is how long nothing may come back from the brokers before it is
// asked whether they are there at all. The client itself goes on trying for as
// long as it may, which is half of the transaction time-out: 32 s after the
// death of a broker nothing had been said yet.
const patience = 5 * time.Second

// attend watches over a wait for acknowledgements. When none come and Reach
// says why, the context ends with that as its cause. stop has to be called.
func (p *Producer) attend(ctx context.Context) (attended context.Context, stop func()) {
	if p.cfg.Reach == nil {
		return ctx, func() {}
	}
	quiet := cmp.Or(p.cfg.Patience, patience)
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(quiet)
		defer t.Stop()
		seen := p.acked.Load()
		for {
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
			if n := p.acked.Load(); n != seen {
				seen = n
				continue
			}
			if err := p.cfg.Reach(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("no answer for %s: %w", quiet, err))
				return
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// unreached is the finding of attend, if that is what ended the context.
func unreached(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.As(cause, new(*fault.Error)) {
		return cause
	}
	return nil
}
