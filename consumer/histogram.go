package consumer

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// durations of handlers: from a function call to a minute.
var durations = [...]time.Duration{
	10 * time.Microsecond, 100 * time.Microsecond,
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, time.Minute,
}

// sample is what one worker has measured since its last flush.
type sample struct {
	counts [len(durations) + 1]uint64
	sum    time.Duration
	n      uint64
}

func (s *sample) add(d time.Duration) {
	i := 0
	for i < len(durations) && d > durations[i] {
		i++
	}
	s.counts[i]++
	s.sum += d
	s.n++
}

// histogram takes whole samples. The library's own takes one value at a time,
// which for a handler that does little costs more than the handler.
type histogram struct {
	desc *prometheus.Desc
	mu   sync.Mutex
	all  sample
}

func newHistogram(name, help string) *histogram {
	return &histogram{desc: prometheus.NewDesc(name, help, nil, nil)}
}

func (h *histogram) merge(s *sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, n := range s.counts {
		h.all.counts[i] += n
	}
	h.all.sum += s.sum
	h.all.n += s.n
}

// Describe implements prometheus.Collector.
func (h *histogram) Describe(ch chan<- *prometheus.Desc) { ch <- h.desc }

// Collect implements prometheus.Collector.
func (h *histogram) Collect(ch chan<- prometheus.Metric) {
	h.mu.Lock()
	all := h.all
	h.mu.Unlock()
	buckets, below := make(map[float64]uint64, len(durations)), uint64(0)
	for i, d := range durations {
		below += all.counts[i]
		buckets[d.Seconds()] = below
	}
	ch <- prometheus.MustNewConstHistogram(h.desc, all.n, all.sum.Seconds(), buckets)
}
