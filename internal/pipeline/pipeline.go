package pipeline

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// Pipeline is one member of a consumer group with a foreign handler.
type Pipeline struct {
	Consumer consumer.Config // without Handler
	Webhook  *Webhook        // this
	Child    *Child          // or this
	// UntilEnd ends Run without an error once everything is done that was in
	// the topics when it began.
	UntilEnd bool
}

// Run consumes until ctx ends. The child starts before the first event and is
// stopped after the last.
func (p *Pipeline) Run(ctx context.Context) error {
	cfg := p.Consumer
	switch {
	case p.Webhook != nil:
		cfg.Handler = p.Webhook.Handle
		defer p.Webhook.Close()
	case p.Child != nil:
		cfg.Handler = p.Child.Handle
	}
	c, err := consumer.New(cfg)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "set up the pipeline")
	}
	var end *end
	if p.UntilEnd {
		if end, err = findEnd(ctx, cfg); err != nil {
			return err
		}
		defer end.close()
		if end.reached() {
			return nil
		}
	}
	consuming, stopConsuming := context.WithCancelCause(ctx)
	defer stopConsuming(nil)
	// The child outlives the consumer: handlers that are draining need it.
	living, stopChild := context.WithCancel(context.WithoutCancel(ctx))
	defer stopChild()

	var g errgroup.Group
	g.Go(func() error {
		defer stopChild()
		defer stopConsuming(nil)
		return c.Run(consuming)
	})
	if p.Child != nil {
		g.Go(func() error {
			err := p.Child.Run(living)
			stopConsuming(err)
			return err
		})
	}
	if end != nil {
		g.Go(func() error {
			err := end.await(consuming)
			if consuming.Err() != nil {
				return nil // stopped before it was reached
			}
			stopConsuming(err)
			return err
		})
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
