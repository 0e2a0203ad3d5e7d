package tracing

import (
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/relay"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/sink"
)

const (
	sampled  = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	unwanted = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

var committedAt = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)

// route makes records of rows with the given contexts, as the relay does.
func route(t *testing.T, span func(string) string, parents ...string) []*kgo.Record {
	t.Helper()
	r, err := sink.NewRouter(sink.RouterConfig{EventsTopic: "orders", Span: span})
	if err != nil {
		t.Fatal(err)
	}
	origin := sink.NewOrigin(sink.OriginFacts{CommitLSN: pglogrepl.LSN(16), Timeline: 1, XID: 7, CommitTime: committedAt, Source: "shop/slot"}, committedAt)
	var all []*kgo.Record
	for i, parent := range parents {
		row := outbox.Record{ID: "id", AggregateType: "a", AggregateID: "b", Type: "c", Payload: []byte("{}"), TraceParent: parent, TraceState: "vendor=1"}
		rec, err := r.Route(origin, &row, uint64(i+1), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		rec.Partition, rec.Offset = 2, int64(100+i)
		all = append(all, rec)
	}
	return all
}

func header(rec *kgo.Record, name string) string {
	for _, h := range rec.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

func transaction(records []*kgo.Record) relay.Commit {
	return relay.Commit{
		Checkpoint: checkpoint.Checkpoint{Seq: 42}, Records: records,
		Began: committedAt.Add(2 * time.Millisecond), Ended: committedAt.Add(9 * time.Millisecond),
	}
}

// A row's span is between the writer's and the record; the transaction's is linked to it.
func TestSpansOfATransaction(t *testing.T) {
	c := newCollector(t)
	var log safe
	tr, end := start(t, &log, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cret", "OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,team=payments",
	})
	records := route(t, tr.Span, sampled, unwanted, "")
	tr.Committed(transaction(records))
	tr.Committed(relay.Commit{Checkpoint: checkpoint.Checkpoint{Seq: 43}}) // a heartbeat
	end()

	created := c.named("create ")
	if len(created) != 1 {
		t.Fatalf("%d spans of rows, want that of the sampled one", len(created))
	}
	span := created[0]
	if got := header(records[0], "traceparent"); got != traceparent(span) {
		t.Errorf("the record carries %s, and the span is %s", got, traceparent(span))
	}
	if got := header(records[0], outbox.HeaderTraceRow); got != sampled {
		t.Errorf("the row's own is %s", got)
	}
	if parent := hex.EncodeToString(span.ParentSpanId); parent != sampled[36:52] || hex.EncodeToString(span.TraceId) != sampled[3:35] {
		t.Errorf("the span is of %s, %x", parent, span.TraceId)
	}
	if span.Name != "create orders" || span.Kind != tracepb.Span_SPAN_KIND_PRODUCER || span.TraceState != "vendor=1" {
		t.Errorf("%s, %s, %q", span.Name, span.Kind, span.TraceState)
	}
	if start, stop := time.Unix(0, int64(span.StartTimeUnixNano)), time.Unix(0, int64(span.EndTimeUnixNano)); !start.Equal(committedAt) || !stop.Equal(committedAt.Add(9*time.Millisecond)) {
		t.Errorf("from %s to %s", start, stop)
	}
	for k, want := range map[string]string{
		"messaging.system": "kafka", "messaging.operation.name": "create", "messaging.operation.type": "create",
		"messaging.destination.name": "orders", "messaging.message.id": "id", "messaging.destination.partition.id": "2",
		"messaging.kafka.offset": "100", "outbox.relay": "orders",
	} {
		if got := attributes(span.Attributes)[k]; got != want {
			t.Errorf("create: %s is %q", k, got)
		}
	}
	// What is not sampled is as the row has it.
	if got := header(records[1], "traceparent"); got != unwanted || header(records[1], outbox.HeaderTraceRow) != "" {
		t.Errorf("a context that is not sampled became %s", got)
	}

	sent := c.named("send ")
	if len(sent) != 1 {
		t.Fatalf("%d spans of transactions: a heartbeat has none", len(sent))
	}
	if s := sent[0]; s.Name != "send orders" || s.Kind != tracepb.Span_SPAN_KIND_CLIENT || len(s.ParentSpanId) > 0 ||
		len(s.Links) != 1 || hex.EncodeToString(s.Links[0].SpanId) != hex.EncodeToString(span.SpanId) {
		t.Errorf("%v", s)
	}
	for k, want := range map[string]string{
		"messaging.system": "kafka", "messaging.operation.name": "send", "messaging.operation.type": "send",
		"messaging.destination.name": "orders", "messaging.batch.message_count": "3", "outbox.checkpoint": "42",
	} {
		if got := attributes(sent[0].Attributes)[k]; got != want {
			t.Errorf("send: %s is %q", k, got)
		}
	}
	if c.schema != schemaURL {
		t.Errorf("schema %q", c.schema)
	}
	for k, want := range map[string]string{"service.name": "mine", "service.version": "v9", "service.instance.id": "pod-1", "team": "payments"} {
		if c.resource[k] != want {
			t.Errorf("resource: %s is %q", k, c.resource[k])
		}
	}
	if got := c.headers[0].Get("Authorization"); got != "Bearer s3cret" {
		t.Errorf("the exporter says %q", got)
	}
	if log.String() != "" {
		t.Errorf("it logs %s", log.String())
	}
}

// Links and spans are bounded, however large a transaction is.
func TestBounds(t *testing.T) {
	c := newCollector(t)
	tr, end := start(t, &safe{}, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.URL + "/v1/traces", "OTEL_BSP_MAX_QUEUE_SIZE": "10000"})
	parents := make([]string, maxSpans+10)
	for i := range parents {
		parents[i] = sampled
	}
	tr.Committed(transaction(route(t, tr.Span, parents...)))
	end()
	if n := len(c.named("create ")); n != maxSpans {
		t.Errorf("%d spans", n)
	}
	if sent := c.named("send "); len(sent) != 1 || len(sent[0].Links) != maxLinks || attributes(sent[0].Attributes)["messaging.batch.message_count"] != "2058" {
		t.Errorf("%d transactions, %d links", len(sent), len(sent[0].Links))
	}
	if n := tr.dropped.Load(); n != 10 {
		t.Errorf("%d are told to be dropped", n)
	}
}

// A collector that is away or silent costs the relay nothing, and it is told of it
// without what only the collector may know.
func TestCollectorIsAway(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() }) // it takes connections and never answers
	var log safe
	tr, end := start(t, &log, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:s3cret@" + silent.Addr().String(), "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cret",
		"OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_BSP_EXPORT_TIMEOUT": "100", "OTEL_EXPORTER_OTLP_TIMEOUT": "100",
	})
	records := route(t, tr.Span, sampled)
	// Each call returns at once: were one to wait for the collector, thousands of them
	// would not end before this test is given up.
	for range 20_000 {
		tr.Committed(transaction(records))
	}
	end()
	said := log.String()
	if strings.Count(said, "spans are lost") != 1 {
		t.Errorf("a collector that is away is told of %d times\n%.2000s", strings.Count(said, "spans are lost"), said)
	}
	if strings.Contains(said, "s3cret") {
		t.Errorf("a secret is logged: %s", said)
	}
}

func TestEnabled(t *testing.T) {
	for name, c := range map[string]struct {
		environ []string
		on      bool
	}{
		"nothing":       {[]string{"OTEL_SERVICE_NAME=x"}, false},
		"an endpoint":   {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318"}, true},
		"of traces":     {[]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c:4318/v1/traces"}, true},
		"empty":         {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT="}, false},
		"disabled":      {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "OTEL_SDK_DISABLED=true"}, false},
		"other signals": {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "OTEL_TRACES_EXPORTER=none"}, false},
	} {
		if Enabled(c.environ) != c.on {
			t.Errorf("%s: %v", name, !c.on)
		}
	}
	tr, err := New(t.Context(), nil, About{}, zerolog.Nop())
	if err != nil || tr != nil || tr.Span(sampled) != "" || tr.Run(t.Context()) != nil {
		t.Errorf("without a word there is tracing: %v", err)
	}
	tr.Committed(relay.Commit{})
}

func TestSettingsThatCannotWork(t *testing.T) {
	for _, environ := range [][]string{
		{"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://us:s3cret@%zz"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=/v1/traces"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"},
	} {
		_, err := New(t.Context(), environ, About{}, zerolog.Nop())
		if !fault.Has(err, fault.TracingSettings) {
			t.Errorf("%q: %v", environ, err)
			continue
		}
		if f := fault.As(err); strings.Contains(f.Text(), "s3cret") || !strings.Contains(f.Error(), "OTEL_EXPORTER_OTLP_") {
			t.Errorf("%s", f.Text())
		}
	}
}

// What is no context is passed on as it is.
func TestNoContext(t *testing.T) {
	tr := &Tracing{}
	for _, text := range []string{"", "x", "00-", sampled[:54], "ff" + sampled[2:], strings.ToUpper(sampled[:40]), sampled + "-more", "00-" + strings.Repeat("0", 32) + sampled[35:], strings.Replace(sampled, "-01", "-zz", 1)} {
		if got := tr.Span(text); got != "" {
			t.Errorf("%q became %q", text, got)
		}
	}
	// A later version may say more at the end, which is not ours to pass on.
	later := "01" + sampled[2:] + "-more"
	if got := tr.Span(later); len(got) != len(sampled) || got[:36] != later[:36] || got[36:52] == later[36:52] {
		t.Errorf("%q became %q", later, got)
	}
}
