package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/relay"
)

// What probes and reports say of relay and breaker together.
func TestDescribe(t *testing.T) {
	cause := fault.New(fault.KafkaRefused, "reach Kafka").WithFix("start it")
	closed := breaker.Status{State: breaker.Closed}
	open := breaker.Status{State: breaker.Open, RetryAt: time.Unix(0, 0), Cause: cause}
	half := breaker.Status{State: breaker.HalfOpen, RetryAt: time.Unix(0, 0), Cause: cause}
	postgres := fault.New(fault.PostgresUnreachable, "connect")
	type seen struct {
		State, Role, Breaker, Code, Connection, Fix string
		Ready, Halted                               bool
	}
	for _, tc := range []struct {
		name  string
		now   relay.State
		cause *fault.Error
		br    breaker.Status
		want  seen
	}{
		{"streaming", relay.Streaming, nil, closed, seen{State: "streaming", Role: "leader", Breaker: "closed", Ready: true}},
		{"standing by", relay.Standby, nil, closed, seen{State: "standby", Role: "standby", Breaker: "closed", Ready: true}},
		{"an attempt failed", relay.Backoff, cause, closed, seen{State: "backoff", Breaker: "closed", Code: "OBX-5022", Connection: "network", Fix: "start it"}},
		{"holding with the breaker open", relay.Backoff, fault.As(open.Err()), open, seen{State: "backoff", Breaker: "open", Code: "OBX-4030", Connection: "network", Fix: "start it"}},
		{"the breaker has opened, and the relay does not know yet", relay.Backoff, cause, open, seen{State: "backoff", Breaker: "open", Code: "OBX-4030", Connection: "network", Fix: "start it"}},
		{"taking the slot with the breaker open", relay.Starting, nil, open, seen{State: "starting", Breaker: "open", Code: "OBX-4030", Connection: "network", Fix: "start it"}},
		{"standing by with the breaker open", relay.Standby, nil, open, seen{State: "standby", Role: "standby", Breaker: "open", Code: "OBX-4030", Connection: "network", Fix: "start it"}},
		{"standing by while it probes", relay.Standby, nil, half, seen{State: "standby", Role: "standby", Breaker: "half-open", Code: "OBX-4030", Connection: "network", Fix: "start it"}},
		{"Postgres is away too", relay.Backoff, postgres, open, seen{State: "backoff", Breaker: "open", Code: "OBX-3001", Fix: fault.PostgresUnreachable.Fix}},
		{"halted", relay.Failed, fault.New(fault.CheckpointMissing, "x"), closed, seen{State: "failed", Breaker: "closed", Code: "OBX-4002", Fix: fault.CheckpointMissing.Fix, Halted: true}},
		{"stopped", relay.Stopped, nil, open, seen{State: "stopped", Breaker: "open"}},
	} {
		h := describe(tc.now, tc.cause, tc.br)
		got := seen{h.State, h.Role, h.Breaker, h.Code, h.Connection, h.Fix, h.Ready, h.Halted}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// The check of Kafka does not ask while the breaker is open, and names the
// cause.
func TestCheckWhileOpen(t *testing.T) {
	cause := fault.New(fault.KafkaRefused, "reach Kafka").WithFix("start it")
	want := health.Result{Status: health.Warn, Code: "OBX-4030", Hint: "start it", Facts: map[string]any{
		"breaker": "open", "cause": "OBX-5022", "connection": "network", "detail": "OBX-5022 reach Kafka",
		"why": fault.KafkaRefused.Why, "retry_at": "1970-01-01T00:00:00Z",
	}}
	if diff := cmp.Diff(want, broken(breaker.Status{State: breaker.Open, RetryAt: time.Unix(0, 0), Cause: cause})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
