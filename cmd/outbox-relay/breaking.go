package main

import (
	"context"
	"time"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/relay"
)

// newBreaker is around the opening of Kafka sessions. It probes by asking the
// brokers for metadata, over connections of its own.
func (s *service) newBreaker() *breaker.Breaker {
	return breaker.New(s.cfg.Kafka.Breaker, breaker.Options{
		Name:     "kafka",
		Probe:    func(ctx context.Context) error { return s.reach(ctx, "probe") },
		OnChange: func(breaker.Status) { s.show() },
		Log:      s.log,
		Metrics:  s.parts.breaker,
	})
}

// onState is told each change of the relay.
func (s *service) onState(st relay.State, cause *fault.Error) {
	s.mu.Lock()
	s.now, s.cause = st, cause
	s.mu.Unlock()
	s.show()
}

// show puts what relay and breaker are on the health page.
func (s *service) show() {
	s.mu.Lock()
	defer s.mu.Unlock() // until it is shown: the newest has to come last
	h := describe(s.now, s.cause, s.breaker.Status())
	if s.now == relay.Streaming {
		h.Guarantee, _ = s.guarantee.Load().(string)
	}
	s.state.Set(h)
}

// describe is a relay and its breaker as the health page shows them. Only with
// a closed breaker anything is ready: a standby that cannot reach Kafka could
// take the slot, and nothing else.
func describe(now relay.State, cause *fault.Error, br breaker.Status) health.Status {
	h := health.Status{State: string(now), Halted: now == relay.Failed, Breaker: string(br.State)}
	switch now {
	case relay.Streaming, relay.Paused:
		h.Role, h.Ready = "leader", br.State == breaker.Closed
	case relay.Standby:
		h.Role, h.Ready = "standby", br.State == breaker.Closed
	}
	// What the breaker counted stands behind it from the moment it opens: the
	// relay's own word for the last attempt comes a moment later.
	if now != relay.Stopped && br.State != breaker.Closed && (cause == nil || breaker.Failure(cause)) {
		cause = fault.As(br.Err())
	}
	if cause == nil {
		return h
	}
	h.Code, h.Name, h.Detail, h.Why, h.Fix = cause.Code.ID, cause.Code.Name, cause.Error(), cause.Reason(), cause.Remedy()
	h.Connection = cause.Code.Connection()
	if cause.Code == fault.BreakerOpen && br.Cause != nil {
		h.Connection = br.Cause.Code.Connection()
	}
	return h
}

// broken answers the check of Kafka while the breaker is not closed: asking
// Kafka all the same would be what the breaker is there to prevent.
func broken(br breaker.Status) health.Result {
	f := fault.As(br.Err())
	return health.Result{Status: health.Warn, Code: f.Code.ID, Hint: f.Remedy(), Facts: map[string]any{
		"breaker": string(br.State), "cause": br.Cause.Code.ID, "connection": br.Cause.Code.Connection(),
		"detail": br.Cause.Error(), "why": br.Cause.Reason(), "retry_at": br.RetryAt.UTC().Format(time.RFC3339),
	}}
}
