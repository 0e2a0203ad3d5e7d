package replication

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestMetricsAreClean(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	NewMetrics(reg)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// The stream counts by part and by read of the socket, and allocates nothing
// for it.
func TestCountingDoesNotAllocate(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry())
	if n := testing.AllocsPerRun(100, func() {
		m.events(256)
		m.received(128 << 10)
		m.transaction()
		m.waited(time.Millisecond)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkCounting is what counting costs a part of 256 rows.
func BenchmarkCounting(b *testing.B) {
	m := NewMetrics(prometheus.NewRegistry())
	b.ReportAllocs()
	for b.Loop() {
		m.events(256)
		m.transaction()
	}
}
