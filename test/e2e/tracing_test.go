package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/holdwall/outbox-relay/test/rig"
)

// collect is a collector of spans; the function returns what it was sent.
func collect(t *testing.T) (url string, spans func() map[string][]*tracepb.Span) {
	t.Helper()
	var mu sync.Mutex
	got := map[string][]*tracepb.Span{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil && r.Header.Get("Content-Encoding") == "gzip" {
			var zip *gzip.Reader
			if zip, err = gzip.NewReader(bytes.NewReader(body)); err == nil {
				body, err = io.ReadAll(zip)
			}
		}
		var req collectorpb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &req)
		}
		if err != nil {
			t.Errorf("collector: %v", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					got[strings.Fields(s.Name)[0]] = append(got[strings.Fields(s.Name)[0]], s)
				}
			}
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() map[string][]*tracepb.Span {
		mu.Lock()
		defer mu.Unlock()
		return got
	}
}

// The trace of a row goes on in its record: as it is without tracing, and through a span
// of the relay's with it. Either way the record is what its row says.
func TestTracing(t *testing.T) {
	ctx := within(t, 90*time.Second)
	const sampled, unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	r := rig.New(t, rig.Config{})
	r.Init(t)
	rows := func(batch string) {
		r.Database.Exec(t, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, traceparent, tracestate) VALUES
			('order', '`+batch+`1', 'Created', '{}', '`+sampled+`', 'vendor=1'), ('order', '`+batch+`2', 'Created', '{}', '`+unsampled+`', NULL), ('order', '`+batch+`3', 'Created', '{}', NULL, NULL)`)
	}
	stop := func(env map[string]string, batch string) {
		relay := r.Serve(t, env)
		rig.AwaitStreaming(t, relay)
		rows(batch)
		r.AwaitCaughtUp(ctx, t)
		if err := relay.Term(); err != nil {
			t.Fatal(err)
		}
		if code, err := relay.Wait(ctx); err != nil || code != 0 {
			t.Fatalf("stop: %d, %v", code, err)
		}
	}
	stop(nil, "off")
	url, spans := collect(t)
	stop(map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": url}, "on")

	parents, kept := map[string]string{}, map[string]string{}
	r.Each(ctx, t, r.Events, func(rec *kgo.Record) {
		for _, h := range rec.Headers {
			switch h.Key {
			case "traceparent":
				parents[string(rec.Key)] = string(h.Value)
			case "outbox.traceparent":
				kept[string(rec.Key)] = string(h.Value)
			}
		}
	})
	created := spans()["create"]
	if len(created) != 1 || hex.EncodeToString(created[0].ParentSpanId) != sampled[36:52] {
		t.Fatalf("spans of rows: %v", created)
	}
	own := "00-" + hex.EncodeToString(created[0].TraceId) + "-" + hex.EncodeToString(created[0].SpanId) + "-01"
	for key, want := range map[string]string{"off1": sampled, "off2": unsampled, "off3": "", "on1": own, "on2": unsampled, "on3": ""} {
		if parents[key] != want {
			t.Errorf("%s carries %q, want %q", key, parents[key], want)
		}
	}
	if len(kept) != 1 || kept["on1"] != sampled {
		t.Errorf("the row's own is kept as %v", kept)
	}
	sent := 0
	for _, s := range spans()["send"] {
		sent += len(s.Links)
	}
	if sent != 1 {
		t.Errorf("transactions are linked to %d rows", sent)
	}
	if took := time.Duration(created[0].EndTimeUnixNano - created[0].StartTimeUnixNano); took <= 0 || took > time.Minute {
		t.Errorf("from commit to Kafka it took %s", took)
	}
	sound(t, r, 6)
}
