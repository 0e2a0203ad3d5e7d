package guard

import (
	"math"
	"time"

	"github.com/jackc/pglogrepl"
)

const (
	// window is how far the forecast looks back. A slot that is read moves its
	// restart_lsn in jumps, with each record of running transactions (15 s) and
	// each confirmation, so a shorter look would take a tooth of the saw for a
	// trend.
	window = 5 * time.Minute
	// settled is how long a slot that is read has to stand still to count as
	// standing, and how much there has to be seen before a trend is one.
	settled = time.Minute
	// smoothing is the time constant of the WAL rate.
	smoothing = time.Minute
	// keepsUp is the share of the WAL rate below which growth of what is
	// retained counts as none.
	keepsUp = 0.1
)

// sample is what one look saw.
type sample struct {
	at               time.Time
	timeline         int32
	current, restart pglogrepl.LSN
	active           bool
}

func (s sample) retained() float64 { return float64(s.current) - float64(s.restart) }

// forecast predicts when Postgres will give the slot up. What counts is how fast
// the slot and the end of the WAL drift apart: on a busy server the WAL alone may
// run through the whole limit in minutes while a sound slot keeps up with it.
type forecast struct {
	samples []sample // of the last window, oldest first
	rate    float64  // bytes of WAL per second
	rated   bool
}

// add takes what was seen now.
func (f *forecast) add(s sample) {
	if n := len(f.samples); n > 0 {
		last := f.samples[n-1]
		dt := s.at.Sub(last.at).Seconds()
		switch {
		case s.timeline != last.timeline || s.current < last.current:
			*f = forecast{} // another history: nothing before it is comparable
		case dt <= 0:
			return
		case !f.rated:
			f.rate, f.rated = float64(s.current-last.current)/dt, true
		default:
			f.rate += (1 - math.Exp(-dt/smoothing.Seconds())) * (float64(s.current-last.current)/dt - f.rate)
		}
	}
	f.samples = append(f.samples, s)
	for len(f.samples) > 1 && s.at.Sub(f.samples[0].at) > window {
		f.samples = f.samples[1:]
	}
}

// secondsToLoss is how long until safe bytes are used up. Without ok there is
// no such time: the slot keeps up, or too little was seen yet.
func (f *forecast) secondsToLoss(safe int64) (seconds float64, ok bool) {
	if speed := f.drift(); speed >= 1 {
		return float64(safe) / speed, true
	}
	return 0, false
}

// drift is how fast the slot falls behind, in bytes per second.
func (f *forecast) drift() float64 {
	if !f.rated {
		return 0
	}
	last := f.samples[len(f.samples)-1]
	if !last.active {
		return f.rate // nobody moves it
	}
	stands := len(f.samples) - 1
	for stands > 0 && f.samples[stands-1].restart == last.restart {
		stands--
	}
	if last.at.Sub(f.samples[stands].at) >= settled {
		return f.rate
	}
	span := last.at.Sub(f.samples[0].at)
	if span < settled {
		return 0
	}
	// The valleys of the saw: the least that was retained in the older and in
	// the newer half.
	middle := f.samples[0].at.Add(span / 2)
	older, newer := math.Inf(1), math.Inf(1)
	for _, s := range f.samples {
		if s.at.Before(middle) {
			older = min(older, s.retained())
		} else {
			newer = min(newer, s.retained())
		}
	}
	growth := (newer - older) / (span.Seconds() / 2)
	if growth < keepsUp*f.rate {
		return 0
	}
	return growth
}
