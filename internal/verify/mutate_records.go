package verify

import "math/rand/v2"

func mutOracleHole(ev *Evidence, rng *rand.Rand) bool {
	// Of a key with a later row: only then can the hole be seen.
	var inner []int
	for i := range ev.Oracle.Rows {
		prev, next := false, false
		for j := range ev.Oracle.Rows {
			same := ev.Oracle.Rows[j].Key == ev.Oracle.Rows[i].Key && ev.Oracle.Rows[j].KeySeq > 0
			prev, next = prev || same && j < i, next || same && j > i
		}
		if prev && next && ev.Oracle.Rows[i].KeySeq > 0 {
			inner = append(inner, i)
		}
	}
	i, ok := pick(rng, inner)
	if !ok {
		return false
	}
	ev.Oracle.Rows = append(ev.Oracle.Rows[:i], ev.Oracle.Rows[i+1:]...)
	return true
}

func mutTable(ev *Evidence, rng *rand.Rand) bool {
	ev.Oracle.OnlyInTable = 1 + rng.IntN(3)
	return true
}

func mutDropEvent(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isEvent))
	if ok {
		ev.remove(r)
	}
	return ok
}

func mutDropLetter(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isLetter))
	if ok {
		ev.remove(r)
	}
	return ok
}

func mutRepeat(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isShown))
	if ok {
		ev.append(int(r.log), *ev.record(r))
	}
	return ok
}

func mutRepeatElsewhere(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isShown))
	if !ok {
		return false
	}
	again := *ev.record(r)
	again.LSN += 1 << 32
	ev.append(int(r.log), again)
	return true
}

func mutInvent(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isShown))
	if !ok {
		return false
	}
	invented := *ev.record(r)
	invented.Ord += 1 << 20
	for i := range invented.ID {
		invented.ID[i] = byte(rng.Uint32())
	}
	ev.append(int(r.log), invented)
	return true
}

func mutPayload(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isShown))
	if ok {
		ev.record(r).Hash ^= 1 << rng.IntN(64)
	}
	return ok
}

// mutUndone: it was produced, if only in a transaction that was aborted.
func mutUndone(ev *Evidence, rng *rand.Rand) bool {
	if len(ev.Logs) == 0 {
		return false
	}
	ev.append(rng.IntN(len(ev.Logs)), Record{ID: ID{1, 2, 3}, LSN: 7, Ord: 1, Seq: 1, Timeline: 1, Undone: true, Fate: Abort})
	return true
}

// mutSwap exchanges what two records of a key hold, not where they are.
func mutSwap(ev *Evidence, rng *rand.Rand) bool {
	a, ok := pick(rng, records(ev, func(l *Log, r *Record) bool {
		n := 0
		for i := range l.Records {
			if l.Records[i].delivery() && l.Records[i].Key == r.Key {
				n++
			}
		}
		return isEvent(l, r) && n > 1
	}))
	if !ok {
		return false
	}
	key := ev.record(a).Key
	b, ok := pick(rng, records(ev, func(l *Log, r *Record) bool {
		return isEvent(l, r) && l == &ev.Logs[a.log] && r.Key == key && r != ev.record(a)
	}))
	if !ok {
		return false
	}
	x, y := ev.record(a), ev.record(b)
	*x, *y = *y, *x
	x.Offset, y.Offset = y.Offset, x.Offset
	return true
}

func mutMoveOffset(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, func(l *Log, r *Record) bool {
		for i := len(l.Records) - 1; i >= 0; i-- {
			if l.Records[i].delivery() {
				return r.delivery() && r != &l.Records[i]
			}
		}
		return false
	}))
	if !ok {
		return false
	}
	moved := *ev.record(r)
	ev.remove(r)
	ev.append(int(r.log), moved)
	return true
}

func mutKey(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isShown))
	if ok {
		ev.record(r).Key = NameOf(ev.record(r).Key.String() + "?")
	}
	return ok
}

func mutMovePartition(ev *Evidence, rng *rand.Rand) bool {
	return moveTo(ev, rng, func(from, to *Log) bool {
		return from.Topic == to.Topic && from.Partition != to.Partition
	})
}

func mutMoveTopic(ev *Evidence, rng *rand.Rand) bool {
	return moveTo(ev, rng, func(from, to *Log) bool { return from.Topic != to.Topic && !to.Letters })
}

func moveTo(ev *Evidence, rng *rand.Rand, fit func(from, to *Log) bool) bool {
	r, ok := pick(rng, records(ev, func(l *Log, r *Record) bool {
		// Who has no key, or asks for a partition, may be anywhere or nowhere.
		row := ev.rowOf(r)
		return isEvent(l, r) && row >= 0 && r.Key != Name{}
	}))
	if !ok {
		return false
	}
	var to []int
	for i := range ev.Logs {
		if fit(&ev.Logs[r.log], &ev.Logs[i]) {
			to = append(to, i)
		}
	}
	log, ok := pick(rng, to)
	if !ok {
		return false
	}
	moved := *ev.record(r)
	ev.remove(r)
	ev.append(log, moved)
	return true
}
