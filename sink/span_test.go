package sink

import (
	"slices"
	"testing"

	"github.com/holdwall/outbox-relay/outbox"
)

// A span of the relay's own stands in the record, and the row's is kept beside it. What
// is not traced goes out as the row has it.
func TestRouteSpan(t *testing.T) {
	t.Parallel()
	row := outbox.Record{
		ID: "i", AggregateType: "order", AggregateID: "7", Type: "created", Payload: []byte("{}"), TraceParent: "of the row", TraceState: "ts",
		Headers: []outbox.Header{{Key: "b", Value: []byte("1")}},
	}
	named := func(lines []string, name string) (at int) {
		return slices.IndexFunc(lines, func(l string) bool { return len(l) > len(name) && l[:len(name)+1] == name+"=" })
	}
	for name, c := range map[string]struct {
		span func(string) string
		want []string
	}{
		"off":         {nil, []string{"traceparent=of the row", "tracestate=ts", "b=1"}},
		"not sampled": {func(string) string { return "" }, []string{"traceparent=of the row", "tracestate=ts", "b=1"}},
		"a span": {func(of string) string { return "span " + of }, []string{
			"traceparent=span of the row", "tracestate=ts", "outbox.traceparent=of the row", "b=1",
		}},
	} {
		r := newRouter(t, RouterConfig{EventsTopic: "events", Span: c.span})
		rec, err := r.Route(testOrigin(), &row, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		lines := headerLines(rec)
		from := named(lines, outbox.HeaderTraceParent)
		if got := lines[from : from+len(c.want)]; !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
		if last := rec.Headers[len(rec.Headers)-1].Key; last != outbox.HeaderCheckpoint {
			t.Errorf("%s: the last header is %s", name, last)
		}
	}
	untraced := row
	untraced.TraceParent = ""
	r := newRouter(t, RouterConfig{EventsTopic: "events", Span: func(string) string { t.Error("asked for a row without a trace"); return "" }})
	if _, err := r.Route(testOrigin(), &untraced, 1, 1); err != nil {
		t.Error(err)
	}
}
