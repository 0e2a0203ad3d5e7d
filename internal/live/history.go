package live

import (
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// historySeconds is how far back the history goes, with a sample for each.
const historySeconds = 15 * 60

// none is a value that is not known.
var none = math.NaN()

func value(v *float64) float64 {
	if v == nil {
		return none
	}
	return *v
}

// sample is one second of the history.
type sample struct {
	at                                             time.Time
	rows, lagSeconds, lagBytes, retained, p50, p99 float64
}

// history is a ring of samples.
type history struct {
	samples [historySeconds]sample
	n       uint64 // ever added
}

func (h *history) add(s sample) {
	h.samples[h.n%historySeconds] = s
	h.n++
}

// History is the answer of /api/history: one list for each column, the oldest
// first, all of one length. null is a value that was not known.
type History struct {
	Time       []int64 `json:"time_ms"` // since 1970
	Rows       column  `json:"rows_per_second"`
	LagSeconds column  `json:"lag_seconds"`
	LagBytes   column  `json:"lag_bytes"`
	Retained   column  `json:"retained_bytes"`
	P50        column  `json:"p50_seconds"`
	P99        column  `json:"p99_seconds"`
}

func (h *history) columns() History {
	out := History{Time: []int64{}}
	n := min(h.n, historySeconds)
	for i := h.n - n; i < h.n; i++ {
		s := &h.samples[i%historySeconds]
		out.Time = append(out.Time, s.at.UnixMilli())
		out.Rows, out.LagSeconds, out.LagBytes = append(out.Rows, s.rows), append(out.LagSeconds, s.lagSeconds), append(out.LagBytes, s.lagBytes)
		out.Retained, out.P50, out.P99 = append(out.Retained, s.retained), append(out.P50, s.p50), append(out.P99, s.p99)
	}
	return out
}

// column is a list of numbers, in which NaN is written as null.
type column []float64

var _ json.Marshaler = column(nil)

// MarshalJSON writes four digits: it is for a chart.
func (c column) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 8*len(c)+2)
	b = append(b, '[')
	for i, v := range c {
		if i > 0 {
			b = append(b, ',')
		}
		switch {
		case math.IsNaN(v):
			b = append(b, "null"...)
		case v == math.Trunc(v) && math.Abs(v) < 1e15:
			b = strconv.AppendInt(b, int64(v), 10)
		default:
			b = strconv.AppendFloat(b, v, 'g', 4, 64)
		}
	}
	return append(b, ']'), nil
}
