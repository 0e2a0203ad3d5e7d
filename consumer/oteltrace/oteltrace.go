// Package oteltrace gives each call of a consumer's handler a span of OpenTelemetry.
//
// It uses the API of OpenTelemetry alone: which SDK there is, and whether there is one,
// is the program's to say. Package consumer itself needs neither.
//
//	c := consumer.Config{
//		Around: oteltrace.Around(otel.Tracer("shop"), "billing"),
//		...
//	}
package oteltrace

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdwall/outbox-relay/consumer"
)

// Around returns a consumer.Config.Around. The span of a call is named after the topic,
// is a child of the context that the record carries, and begins anew with each attempt;
// an error of the handler is its status. group is the consumer's, for the attributes.
func Around(tracer trace.Tracer, group string) func(context.Context, *consumer.Event) (context.Context, func(error)) {
	return func(ctx context.Context, ev *consumer.Event) (context.Context, func(error)) {
		ctx = propagation.TraceContext{}.Extract(ctx, carrier{ev})
		ctx, span := tracer.Start(ctx, "process "+ev.Topic, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
			attribute.String("messaging.system", "kafka"),
			attribute.String("messaging.operation.name", "process"),
			attribute.String("messaging.operation.type", "process"),
			attribute.String("messaging.consumer.group.name", group),
			attribute.String("messaging.destination.name", ev.Topic),
			attribute.Int("messaging.destination.partition.id", int(ev.Partition)),
			attribute.Int64("messaging.kafka.offset", ev.Offset),
			attribute.String("messaging.message.id", ev.ID),
			attribute.Int("outbox.attempt", ev.Attempt),
		))
		return ctx, func(err error) {
			if err != nil && !errors.Is(err, consumer.ErrSkip) {
				span.RecordError(err)
				span.SetStatus(codes.Error, err.Error())
			}
			span.End()
		}
	}
}

// carrier is the context that an event carries.
type carrier struct{ ev *consumer.Event }

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(key string) string {
	switch key {
	case "traceparent":
		return c.ev.TraceParent
	case "tracestate":
		return c.ev.TraceState
	}
	return ""
}

// Set implements propagation.TextMapCarrier; nothing is ever set.
func (carrier) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (carrier) Keys() []string { return []string{"traceparent", "tracestate"} }
