package consumer_test

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/holdwall/outbox-relay/consumer"
)

// metric returns the value of a metric; labels may name some of its labels.
func (w *world) metric(name string, labels map[string]string) float64 {
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Error(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			has := map[string]string{}
			for _, l := range m.Label {
				has[l.GetName()] = l.GetValue()
			}
			all := maps.Clone(has)
			maps.Copy(all, labels)
			if maps.Equal(has, all) {
				sum += value(m)
			}
		}
	}
	return sum
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	}
	return 0
}

func (w *world) awaitMetric(name string, labels map[string]string, want float64) {
	w.t.Helper()
	w.awaitMetricFunc(name, labels, func(v float64) bool { return v == want })
}

func (w *world) awaitMetricAbove(name string, labels map[string]string, least float64) {
	w.t.Helper()
	w.awaitMetricFunc(name, labels, func(v float64) bool { return v >= least })
}

func (w *world) awaitMetricFunc(name string, labels map[string]string, ok func(float64) bool) {
	w.t.Helper()
	late := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		v := w.metric(name, labels)
		if ok(v) {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			w.t.Fatalf("%s%v stays %v", name, labels, v)
		}
	}
}

func TestMetricsAreLintClean(t *testing.T) {
	w := newWorld(t, 1)
	w.produce(event(0, "k", 1), event(0, "k", 2))
	seen := newLog()
	cfg := w.config()
	cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
	w.start(cfg)
	seen.count(t, 2)
	w.awaitCommitted(events, 0, 2)
	w.awaitMetric("outbox_consumer_handled_total", map[string]string{"group": group}, 2)
	w.awaitMetric("outbox_consumer_handler_duration_seconds", nil, 2)
	w.awaitMetric("outbox_consumer_lag_records", map[string]string{"topic": events, "partition": "0"}, 0)
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
