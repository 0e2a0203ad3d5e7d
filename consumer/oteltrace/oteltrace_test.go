package oteltrace

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdwall/outbox-relay/consumer"
)

func TestSpanOfACall(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	around := Around(tracer, "billing")
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, c := range []struct {
		ev     consumer.Event
		err    error
		child  bool
		status codes.Code
	}{
		{consumer.Event{ID: "1", Topic: "orders", Partition: 2, Offset: 7, Attempt: 1, TraceParent: parent, TraceState: "vendor=1"}, nil, true, codes.Unset},
		{consumer.Event{ID: "2", Topic: "orders", Attempt: 2, TraceParent: parent}, errors.New("no"), true, codes.Error},
		{consumer.Event{ID: "2a", Topic: "orders", Attempt: 2, TraceParent: parent}, consumer.ErrSkip, true, codes.Unset},
		{consumer.Event{ID: "3", Topic: "orders", Attempt: 1}, nil, false, codes.Unset},
		{consumer.Event{ID: "4", Topic: "orders", Attempt: 1, TraceParent: "nonsense"}, nil, false, codes.Unset},
	} {
		ctx, end := around(context.Background(), &c.ev)
		inside := trace.SpanContextFromContext(ctx)
		end(c.err)
		all := spans.Ended()
		span := all[len(all)-1]
		if span.SpanContext().SpanID() != inside.SpanID() || span.SpanKind() != trace.SpanKindConsumer || span.Name() != "process orders" {
			t.Errorf("%s: %v", c.ev.ID, span)
		}
		if c.child != (span.Parent().SpanID().String() == parent[36:52] && span.SpanContext().TraceID().String() == parent[3:35]) || c.child != span.Parent().IsRemote() {
			t.Errorf("%s is a child of %v", c.ev.ID, span.Parent())
		}
		if c.ev.TraceState != "" && span.SpanContext().TraceState().String() != c.ev.TraceState {
			t.Errorf("%s has the state %s", c.ev.ID, span.SpanContext().TraceState())
		}
		if span.Status().Code != c.status {
			t.Errorf("%s ends with %v", c.ev.ID, span.Status())
		}
		got := attribute.NewSet(span.Attributes()...)
		for _, want := range []attribute.KeyValue{
			attribute.String("messaging.system", "kafka"), attribute.String("messaging.consumer.group.name", "billing"),
			attribute.String("messaging.message.id", c.ev.ID), attribute.Int("outbox.attempt", c.ev.Attempt),
		} {
			if v, ok := got.Value(want.Key); !ok || v != want.Value {
				t.Errorf("%s: %s is %v", c.ev.ID, want.Key, v)
			}
		}
	}
}
