package live

import (
	"math/bits"
	"time"
)

const (
	windowSeconds  = 60 // over which latency is looked at
	rateSeconds    = 10 // over which rates are taken
	octaves, parts = 37, 8
)

// window counts by seconds, the last of them.
type window struct {
	seconds [windowSeconds]second
}

type second struct {
	unix                 int64
	rows, commits, bytes uint64
	latency              histogram
}

// at returns the second of a time, emptied if it was of an older minute.
func (w *window) at(t time.Time) *second {
	unix := t.Unix()
	s := &w.seconds[unix%windowSeconds]
	if s.unix != unix {
		*s = second{unix: unix}
	}
	return s
}

// Rates are means over the last ten seconds.
type Rates struct {
	Rows         float64 `json:"rows_per_second"`
	Transactions float64 `json:"transactions_per_second"`
	Bytes        float64 `json:"bytes_per_second"`
}

// rates leaves the second out that is not over.
func (w *window) rates(now, started time.Time) Rates {
	over := min(rateSeconds, max(1, int64(now.Sub(started)/time.Second)))
	var sum second
	for i := range w.seconds {
		if s := &w.seconds[i]; s.unix < now.Unix() && s.unix >= now.Unix()-over {
			sum.rows, sum.commits, sum.bytes = sum.rows+s.rows, sum.commits+s.commits, sum.bytes+s.bytes
		}
	}
	per := func(n uint64) float64 { return float64(n) / float64(over) }
	return Rates{Rows: per(sum.rows), Transactions: per(sum.commits), Bytes: per(sum.bytes)}
}

// Latency is the time from the commit in Postgres to its being readable in
// Kafka, of the oldest row of each Kafka transaction of the last minute; null if
// there was none.
type Latency struct {
	P50 *float64 `json:"p50_seconds"`
	P95 *float64 `json:"p95_seconds"`
	P99 *float64 `json:"p99_seconds"`
}

func (w *window) quantiles(now time.Time) Latency {
	var h histogram
	for i := range w.seconds {
		if s := &w.seconds[i]; s.unix > now.Unix()-windowSeconds && s.unix <= now.Unix() {
			h.join(&s.latency)
		}
	}
	return Latency{P50: h.quantile(0.50), P95: h.quantile(0.95), P99: h.quantile(0.99)}
}

// histogram has eight steps to each doubling, from a microsecond to a day and
// more: a value is known to about 6 %.
type histogram struct {
	steps [(octaves + 2) * parts]uint32
	n     uint32
}

func (h *histogram) add(d time.Duration) {
	v := uint64(max(0, d/time.Microsecond))
	i := int(v)
	if v >= parts {
		e := bits.Len64(v) - 4
		i = min((e+1)*parts+int(v>>e)%parts, len(h.steps)-1)
	}
	h.steps[i]++
	h.n++
}

func (h *histogram) join(o *histogram) {
	if o.n == 0 {
		return
	}
	for i, n := range o.steps {
		h.steps[i] += n
	}
	h.n += o.n
}

// quantile returns seconds, or nil if there is nothing.
func (h *histogram) quantile(q float64) *float64 {
	if h.n == 0 {
		return nil
	}
	left := int64(q * float64(h.n))
	for i, n := range h.steps {
		if left -= int64(n); left < 0 || i == len(h.steps)-1 {
			v := middle(i) / 1e6
			return &v
		}
	}
	return nil
}

// middle is the middle of a step, in microseconds.
func middle(i int) float64 {
	if i < parts {
		return float64(i)
	}
	width := float64(uint64(1) << (i/parts - 1))
	return (float64(parts+i%parts) + 0.5) * width
}
