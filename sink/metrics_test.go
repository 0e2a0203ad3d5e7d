package sink_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/sink"
)

// values reads a registry as name, or name/label/..., to value; of a histogram
// the number of observations.
func values(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "/" + l.GetValue()
			}
			out[name] = value(m)
		}
	}
	return out
}

func value(m *dto.Metric) float64 {
	return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
}

func TestMetricsOfACommit(t *testing.T) {
	r, reg := newRig(t), prometheus.NewRegistry()
	r.metrics = sink.NewMetrics(reg)
	r.metrics.Announce(events, "quiet")
	p, s := r.open(t)
	c := follow(s, 2)
	if err := p.write(t.Context(), t, c, event("a", 0), event("bb", 1)); err != nil {
		t.Fatal(err)
	}
	if err := p.ReadBack(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	h := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: events, Partitions: []int32{1}, Err: kerr.TopicAuthorizationFailed})
	if err := p.write(t.Context(), t, follow(sessionAt(s, c), 3), event("good", 0), event("bad", 1), event("bad too", 1)); err == nil || h.Hits() != 1 {
		t.Errorf("%d requests were spoiled, %v", h.Hits(), err)
	}
	got := values(t, reg)
	for name, want := range map[string]float64{
		"outbox_produced_records_total/events":                         2,
		"outbox_produced_records_total/ckpt":                           1,
		"outbox_produced_records_total/quiet":                          0,
		"outbox_produced_records_total/other":                          0,
		"outbox_produced_bytes_total/events":                           float64(len(event("a", 0).Key) + len(event("bb", 1).Key) + 3),
		"outbox_produce_errors_total/TOPIC_AUTHORIZATION_FAILED/false": 2,
		"outbox_produce_errors_total/MESSAGE_TOO_LARGE/false":          0,
		"kafka_outbox_published_total":                                 2,
		"kafka_outbox_publish_errors_total":                            1,
		"kafka_outbox_batch_failures_total":                            1,
		"kafka_producer_init_failures_total":                           0,
		"outbox_checkpoint_writes_total":                               1,
		"outbox_transactions_total/committed":                          1,
		"outbox_transactions_total/aborted":                            1,
		"outbox_transactions_total/fenced":                             0,
		"outbox_transaction_records":                                   1,
		"outbox_transaction_duration_seconds/produce":                  1,
		"outbox_transaction_duration_seconds/end":                      1,
		"outbox_transaction_duration_seconds/read_back":                1,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, %v, want %v", name, v, ok, want)
		}
	}
}

// Rows may name any topic, and a metric may not.
func TestTopicsAreBounded(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m := sink.NewMetrics(reg)
	for n := range 1000 {
		m.Announce("topic-" + strconv.Itoa(n))
	}
	got := values(t, reg)
	n := 0
	for name := range got {
		if len(name) > len("outbox_produced_bytes_total/") && name[:len("outbox_produced_bytes_total/")] == "outbox_produced_bytes_total/" {
			n++
		}
	}
	if _, ok := got["outbox_produced_bytes_total/other"]; !ok || n != 201 {
		t.Errorf("%d series of topics", n)
	}
}

// What is counted costs a transaction a few counters, and a record nothing.
func TestCountingDoesNotAllocate(t *testing.T) {
	reg := prometheus.NewRegistry()
	count := sink.CountTransaction(sink.NewMetrics(reg))
	count(1000, time.Millisecond)
	if n := testing.AllocsPerRun(100, func() { count(1000, time.Millisecond) }); n > 0 {
		t.Errorf("%v allocations for a transaction of 1000 records", n)
	}
}

func BenchmarkCounting(b *testing.B) {
	count := sink.CountTransaction(sink.NewMetrics(prometheus.NewRegistry()))
	b.ReportAllocs()
	for b.Loop() {
		count(1000, time.Millisecond)
	}
}
