package verify

import (
	"math/rand/v2"

	"github.com/holdwall/outbox-relay/checkpoint"
)

func isRecovered(_ *Log, r *Record) bool { return r.delivery() && r.Recovered }

// mutOutside publishes a group of a recovery after that has ended, or before.
func mutOutside(ev *Evidence, rng *rand.Rand) bool {
	var all []int
	for _, i := range lanes(ev, 0) {
		if c := &ev.Checkpoints[i].Checkpoint; c.Recovery != nil && c.Rows > 0 {
			all = append(all, i)
		}
	}
	i, ok := pick(rng, all)
	if ok {
		ev.Checkpoints[i].Checkpoint.Recovery = nil
	}
	return ok
}

// mutPretend passes an event of the stream off as recovered.
func mutPretend(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, func(l *Log, r *Record) bool { return isEvent(l, r) && !r.Recovered }))
	if ok {
		ev.record(r).Recovered = true
	}
	return ok
}

// mutUsurp gives a recovered row a position that is another row's.
func mutUsurp(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isRecovered))
	if !ok || len(ev.Oracle.Rows) == 0 {
		return false
	}
	at := ev.Oracle.At(rng.IntN(len(ev.Oracle.Rows)))
	rec := ev.record(r)
	rec.LSN, rec.Ord, rec.Seq = at.LSN, at.Ord, at.Ord
	return true
}

// mutTooEarly recovers a row before it was committed.
func mutTooEarly(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isRecovered))
	if ok {
		ev.record(r).LSN = 1
	}
	return ok
}

// mutLeave lets the slot go on from elsewhere than the recovery ends.
func mutLeave(ev *Evidence, rng *rand.Rand) bool {
	under := map[uint64]bool{}
	for _, i := range lanes(ev, 0) {
		c := &ev.Checkpoints[i]
		under[c.Checkpoint.Seq] = c.Kind == checkpoint.Lane && c.Checkpoint.Recovery != nil
	}
	var all []int
	for i := range ev.Samples {
		if s := &ev.Samples[i]; under[s.Seq] && s.Confirmed > s.End {
			all = append(all, i)
		}
	}
	i, ok := pick(rng, all)
	if ok {
		ev.Samples[i].Confirmed++
	}
	return ok
}
