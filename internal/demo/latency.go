package demo

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const longestLatency = int64(10 * time.Minute / time.Microsecond)

// latency is the time from sending COMMIT to seeing the record under
// read_committed. Starting the clock before the answer of Postgres counts its
// flush in, and cannot give a negative time.
type latency struct {
	outages []outage
	all     *hdrhistogram.Histogram // microseconds
	steady  *hdrhistogram.Histogram // the same without what an outage touched
}

// outage is a time in which the relay was away, or catching up.
type outage struct{ from, to time.Time } // to is zero while it lasts

func newLatency() latency {
	return latency{all: hdrhistogram.New(1, longestLatency, 3), steady: hdrhistogram.New(1, longestLatency, 3)}
}

func (l *latency) record(sent, seen time.Time) {
	took := min(max(seen.Sub(sent).Microseconds(), 1), longestLatency)
	_ = l.all.RecordValue(took) // in range by the line above
	for _, o := range l.outages {
		if !seen.Before(o.from) && (o.to.IsZero() || sent.Before(o.to)) {
			return
		}
	}
	_ = l.steady.RecordValue(took)
}

func (l *latency) outageBegins(now time.Time) { l.outages = append(l.outages, outage{from: now}) }

func (l *latency) outageEnds(now time.Time) {
	if n := len(l.outages); n > 0 && l.outages[n-1].to.IsZero() {
		l.outages[n-1].to = now
	}
}

type percentiles struct{ N, P50, P90, P99, Max int64 } // microseconds

func percentilesOf(h *hdrhistogram.Histogram) percentiles {
	return percentiles{
		N: h.TotalCount(), P50: h.ValueAtQuantile(50), P90: h.ValueAtQuantile(90),
		P99: h.ValueAtQuantile(99), Max: h.Max(),
	}
}
