package tracing

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdwall/outbox-relay/internal/relay"
	"github.com/holdwall/outbox-relay/outbox"
)

var errBehind = errors.New("more transactions are committed than spans can be made of")

// Span returns the traceparent of the span that stands between a row and its record,
// and "" for a row whose context is not sampled or is none. The span itself is made
// once the record is committed.
func (t *Tracing) Span(row string) string {
	if t == nil {
		return ""
	}
	parent := parse(row)
	if !parent.IsSampled() {
		return ""
	}
	var id trace.SpanID
	_, _ = rand.Read(id[:]) // it never fails
	// version-trace id-parent id-flags
	return row[:36] + id.String() + row[52:55]
}

// parse reads a W3C traceparent. What is none is the zero context.
func parse(text string) trace.SpanContext {
	parts := strings.Split(text, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || parts[0] == "ff" || parts[0] == "00" && len(parts) != 4 || len(parts[3]) != 2 {
		return trace.SpanContext{}
	}
	traceID, err := trace.TraceIDFromHex(parts[1])
	if err != nil {
		return trace.SpanContext{}
	}
	spanID, err := trace.SpanIDFromHex(parts[2])
	if err != nil {
		return trace.SpanContext{}
	}
	flags, err := hex.DecodeString(parts[3])
	if err != nil {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.TraceFlags(flags[0]), Remote: true})
}

// row is what is known of a record that has a span.
type row struct {
	own, parent trace.SpanContext
	state       string
	committed   time.Time
	topic, id   string
	partition   int32
	offset      int64
}

// commit is what is known of a Kafka transaction.
type commit struct {
	rows         []row
	left         int // traced rows beyond what gets spans
	records      int
	topics       map[string]bool
	seq          uint64
	began, ended time.Time
}

// take copies what spans need: records keep much memory.
func take(c relay.Commit) commit {
	out := commit{records: len(c.Records) + len(c.Released), topics: map[string]bool{}, seq: c.Checkpoint.Seq, began: c.Began, ended: c.Ended}
	for _, list := range [...][]*kgo.Record{c.Records, c.Released} {
		for _, rec := range list {
			if !out.topics[rec.Topic] {
				out.topics[rec.Topic] = true
			}
			r, ok := spanOf(rec)
			switch {
			case !ok:
			case len(out.rows) == maxSpans:
				out.left++
			default:
				out.rows = append(out.rows, r)
			}
		}
	}
	return out
}

// spanOf finds the span of a record, if it has one.
func spanOf(rec *kgo.Record) (row, bool) {
	var own, parent, state, at, id []byte
	for i := range rec.Headers {
		switch h := &rec.Headers[i]; h.Key {
		case outbox.HeaderTraceParent:
			own = h.Value
		case outbox.HeaderTraceRow:
			parent = h.Value
		case outbox.HeaderTraceState:
			state = h.Value
		case outbox.HeaderCommitTS:
			at = h.Value
		case outbox.HeaderID:
			id = h.Value
		}
	}
	if parent == nil {
		return row{}, false
	}
	r := row{
		own: parse(string(own)), parent: parse(string(parent)), state: string(state),
		topic: rec.Topic, id: string(id), partition: rec.Partition, offset: rec.Offset,
	}
	if !r.own.IsValid() || !r.parent.IsSampled() {
		return row{}, false
	}
	r.committed, _ = time.Parse(time.RFC3339Nano, string(at))
	return r, true
}

// wanted is the identity that a span is to have.
type wanted struct{}

// generator gives a span the identity that its record already carries.
type generator struct{}

// NewIDs implements sdktrace.IDGenerator.
func (g generator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	var id trace.TraceID
	_, _ = rand.Read(id[:])
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID implements sdktrace.IDGenerator.
func (generator) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if id, ok := ctx.Value(wanted{}).(trace.SpanID); ok {
		return id
	}
	var id trace.SpanID
	_, _ = rand.Read(id[:])
	return id
}

var (
	kafka = attribute.String("messaging.system", "kafka")
	// The conventions have a name of the operation, and a type of a few.
	createName, createType = attribute.String("messaging.operation.name", "create"), attribute.String("messaging.operation.type", "create")
	sendName, sendType     = attribute.String("messaging.operation.name", "send"), attribute.String("messaging.operation.type", "send")
)

// spans makes the spans of one transaction.
func (t *Tracing) spans(c commit) {
	links := make([]trace.Link, 0, min(len(c.rows), maxLinks))
	for i := range c.rows {
		r := &c.rows[i]
		if len(links) < maxLinks {
			links = append(links, trace.Link{SpanContext: r.own})
		}
		if state, err := trace.ParseTraceState(r.state); err == nil {
			r.parent = r.parent.WithTraceState(state)
		}
		start := r.committed
		if start.IsZero() || start.After(c.ended) {
			start = c.began // no clock of two is right
		}
		ctx := trace.ContextWithRemoteSpanContext(context.WithValue(context.Background(), wanted{}, r.own.SpanID()), r.parent)
		_, span := t.tracer.Start(ctx, "create "+r.topic, trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(start),
			trace.WithAttributes(kafka, createName, createType, t.relay,
				attribute.String("messaging.destination.name", r.topic), attribute.String("messaging.message.id", r.id),
				attribute.Int("messaging.destination.partition.id", int(r.partition)), attribute.Int64("messaging.kafka.offset", r.offset)))
		span.End(trace.WithTimestamp(c.ended))
	}
	name, attrs := "send", []attribute.KeyValue{
		kafka, sendName, sendType, t.relay,
		attribute.Int("messaging.batch.message_count", c.records), attribute.Int64("outbox.checkpoint", int64(c.seq)),
	}
	if len(c.topics) == 1 {
		for topic := range c.topics {
			name += " " + topic
			attrs = append(attrs, attribute.String("messaging.destination.name", topic))
		}
	}
	_, span := t.tracer.Start(context.Background(), name, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(c.began),
		trace.WithLinks(links...), trace.WithAttributes(attrs...))
	span.End(trace.WithTimestamp(c.ended))
}
