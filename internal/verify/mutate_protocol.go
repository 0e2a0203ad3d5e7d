package verify

import (
	"math/rand/v2"
	"slices"

	"github.com/holdwall/outbox-relay/checkpoint"
)

func mutLeak(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, func(_ *Log, r *Record) bool { return !r.Committed }))
	if ok {
		ev.record(r).Committed = true
	}
	return ok
}

func mutHide(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isShown))
	if ok {
		ev.record(r).Committed = false
	}
	return ok
}

// mutTear makes one partition of a transaction end with an abort and another
// with a commit.
func mutTear(ev *Evidence, rng *rand.Rand) bool {
	spread := map[attempt]map[int32]struct{}{}
	shown := records(ev, isShown)
	for _, r := range shown {
		a := attempt{ev.record(r).Producer, ev.record(r).Ckpt}
		if spread[a] == nil {
			spread[a] = map[int32]struct{}{}
		}
		spread[a][r.log] = struct{}{}
	}
	shown = slices.DeleteFunc(shown, func(r ref) bool {
		return len(spread[attempt{ev.record(r).Producer, ev.record(r).Ckpt}]) < 2
	})
	r, ok := pick(rng, shown)
	if !ok {
		return false
	}
	torn := attempt{ev.record(r).Producer, ev.record(r).Ckpt}
	for i := range ev.Logs[r.log].Records {
		if rec := &ev.Logs[r.log].Records[i]; rec.Committed && (attempt{rec.Producer, rec.Ckpt}) == torn {
			rec.Committed, rec.Fate = false, Abort
		}
	}
	return true
}

// mutSplit lets a row of a group be committed with the group after it.
func mutSplit(ev *Evidence, rng *rand.Rand) bool {
	byGroup := map[uint64][]ref{}
	var groups []uint64
	for _, r := range records(ev, isShown) {
		ckpt := ev.record(r).Ckpt
		if len(byGroup[ckpt]) == 1 {
			groups = append(groups, ckpt)
		}
		byGroup[ckpt] = append(byGroup[ckpt], r)
	}
	slices.Sort(groups)
	g, ok := pick(rng, groups)
	if !ok {
		return false
	}
	r, _ := pick(rng, byGroup[g])
	ev.record(r).Ckpt++
	return true
}

func mutProducer(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isShown))
	if ok {
		ev.record(r).Producer.Epoch++
	}
	return ok
}

// lanes returns the committed checkpoints from the given one on.
func lanes(ev *Evidence, from int) []int {
	var all []int
	for i := range ev.Checkpoints {
		if c := &ev.Checkpoints[i]; c.Committed && c.Kind == checkpoint.Lane {
			all = append(all, i)
		}
	}
	return all[min(from, len(all)):]
}

func mutLoseCheckpoint(ev *Evidence, rng *rand.Rand) bool {
	all := lanes(ev, 1)
	all = slices.DeleteFunc(all, func(i int) bool { return ev.Checkpoints[i].Checkpoint.Rows == 0 })
	i, ok := pick(rng, all)
	if ok {
		ev.Checkpoints = slices.Delete(ev.Checkpoints, i, i+1)
	}
	return ok
}

func mutRegress(ev *Evidence, rng *rand.Rand) bool {
	all := lanes(ev, 0)
	if len(all) < 2 {
		return false
	}
	n := 1 + rng.IntN(len(all)-1)
	c := &ev.Checkpoints[all[n]].Checkpoint
	before := ev.Checkpoints[all[rng.IntN(n)]].Checkpoint.Pos
	c.Pos = before
	c.Pos.EndLSN--
	c.Pos.CommitLSN = min(c.Pos.CommitLSN, c.Pos.EndLSN)
	return true
}

func mutRepeatSeq(ev *Evidence, rng *rand.Rand) bool {
	i, ok := pick(rng, lanes(ev, 1))
	if ok {
		ev.Checkpoints[i].Checkpoint.Seq--
	}
	return ok
}

func mutSkipSeq(ev *Evidence, rng *rand.Rand) bool {
	all := lanes(ev, 0)
	if len(all) < 3 {
		return false
	}
	i := all[1+rng.IntN(len(all)-2)]
	ev.Checkpoints = slices.Delete(ev.Checkpoints, i, i+1)
	return true
}

// mutZombie lets a session write a barrier after another has begun.
func mutZombie(ev *Evidence, rng *rand.Rand) bool {
	var old []string
	last := ""
	for i := range ev.Checkpoints {
		c := &ev.Checkpoints[i]
		if !c.Committed || c.Session == "" || c.Session == last {
			continue
		}
		if last != "" {
			old = append(old, last)
		}
		last = c.Session
	}
	session, ok := pick(rng, old)
	if !ok {
		return false
	}
	end := ev.Checkpoints[len(ev.Checkpoints)-1].Offset
	ev.Checkpoints = append(ev.Checkpoints, CheckpointRecord{Offset: end + 2, Kind: checkpoint.Session, Session: session, Fate: Commit, Committed: true})
	return true
}

func mutConfirm(ev *Evidence, rng *rand.Rand) bool {
	var all []int
	for i := range ev.Samples {
		if ev.Samples[i].Seq > 0 {
			all = append(all, i)
		}
	}
	i, ok := pick(rng, all)
	if ok {
		ev.Samples[i].Confirmed = ev.Samples[i].End + 1
	}
	return ok
}

func mutSlotBack(ev *Evidence, rng *rand.Rand) bool {
	var all []int
	for i := 1; i < len(ev.Samples); i++ {
		if ev.Samples[i].Epoch == ev.Samples[i-1].Epoch && ev.Samples[i-1].Confirmed > 0 {
			all = append(all, i)
		}
	}
	i, ok := pick(rng, all)
	if ok {
		ev.Samples[i].Confirmed = ev.Samples[i-1].Confirmed - 1
	}
	return ok
}

// mutInsertSeen: the record was there at the end, and the reader passed it by.
func mutInsertSeen(ev *Evidence, rng *rand.Rand) bool {
	return unsee(ev, rng, func(s *Sighting, n int) bool {
		s.Offsets, s.IDs = slices.Delete(s.Offsets, n, n+1), slices.Delete(s.IDs, n, n+1)
		return true
	}, 1)
}

func mutVanish(ev *Evidence, rng *rand.Rand) bool {
	return unsee(ev, rng, func(s *Sighting, n int) bool {
		for i := range ev.Logs {
			if l := &ev.Logs[i]; l.Topic == s.Topic && l.Partition == s.Partition {
				l.Records = slices.DeleteFunc(l.Records, func(r Record) bool { return r.Offset == s.Offsets[n] })
				return true
			}
		}
		return false
	}, 0)
}

// unsee chooses a sighting; spare is how many there must be after it.
func unsee(ev *Evidence, rng *rand.Rand, do func(*Sighting, int) bool, spare int) bool {
	var all []int
	for i := range ev.Sightings {
		if len(ev.Sightings[i].Offsets) > spare {
			all = append(all, i)
		}
	}
	i, ok := pick(rng, all)
	if !ok {
		return false
	}
	s := &ev.Sightings[i]
	return do(s, rng.IntN(len(s.Offsets)-spare))
}

func mutOpen(ev *Evidence, rng *rand.Rand) bool {
	if !ev.Rules.Quiet || len(ev.Logs) == 0 {
		return false
	}
	ev.Logs[rng.IntN(len(ev.Logs))].HW += 2
	return true
}
