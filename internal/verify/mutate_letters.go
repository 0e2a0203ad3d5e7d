package verify

import (
	"math/rand/v2"
	"slices"
)

func isBlocking(l *Log, r *Record) bool { return isLetter(l, r) && r.Reason != parked }

func mutPoison(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isEvent))
	if !ok {
		return false
	}
	row := ev.rowOf(ev.record(r))
	if row < 0 || !ev.Oracle.Rows[row].Marked {
		return false
	}
	ev.Oracle.Rows[row].Poison = true
	return true
}

func mutFalseLetter(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isBlocking))
	if !ok {
		return false
	}
	row := ev.rowOf(ev.record(r))
	if row < 0 || !ev.Oracle.Rows[row].Marked {
		return false
	}
	ev.Oracle.Rows[row].Poison = false
	return true
}

func mutReason(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, func(l *Log, r *Record) bool {
		row := ev.rowOf(r)
		return isBlocking(l, r) && row >= 0 && ev.Oracle.Rows[row].Reason != Name{}
	}))
	if ok {
		ev.record(r).Reason = NameOf("another")
	}
	return ok
}

// mutDoubleReplay: killed between the replay and its mark, and done again.
func mutDoubleReplay(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isReplay))
	if ok {
		ev.append(int(r.log), *ev.record(r))
	}
	return ok
}

func mutReplayEvent(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isEvent))
	if !ok {
		return false
	}
	again := *ev.record(r)
	again.Replayed, again.ReplayOf, again.Ckpt = true, again.ID, 0
	ev.append(int(r.log), again)
	return true
}

func mutAlterReplay(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isReplay))
	if !ok {
		return false
	}
	switch rec := ev.record(r); rng.IntN(4) {
	case 0:
		rec.Hash ^= 1 << rng.IntN(64)
	case 1:
		rec.Key = NameOf(rec.Key.String() + "?")
	case 2:
		rec.Seq++
	case 3:
		rec.ReplayOf[0]++
	}
	return true
}

func mutDropReplay(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, isReplay))
	if ok {
		ev.Sightings = nil // who saw it would tell as well
		ev.remove(r)
	}
	return ok
}

// marks returns the indexes of the marks that fit.
func (ev *Evidence) marks(fit func(*LetterMark) bool) []int {
	var all []int
	for i := range ev.State.Marks {
		if fit(&ev.State.Marks[i]) {
			all = append(all, i)
		}
	}
	return all
}

func isSending(m *LetterMark) bool { return m.Committed && m.Action.sends() }

func mutDropMark(ev *Evidence, rng *rand.Rand) bool {
	i, ok := pick(rng, ev.marks(isSending))
	if ok {
		ev.State.Marks = slices.Delete(ev.State.Marks, i, i+1)
	}
	return ok
}

func mutPurge(ev *Evidence, rng *rand.Rand) bool {
	i, ok := pick(rng, ev.marks(isSending))
	if ok {
		ev.State.Marks[i].Action = Purged
	}
	return ok
}

func mutMarkTwice(ev *Evidence, rng *rand.Rand) bool {
	i, ok := pick(rng, ev.marks(func(m *LetterMark) bool { return m.Committed && m.Action != Deferred }))
	if !ok {
		return false
	}
	again := ev.State.Marks[i]
	again.Offset, again.Action = ev.State.HW, Purged
	ev.State.HW, ev.State.LSO = ev.State.HW+2, ev.State.LSO+2
	ev.State.Marks = append(ev.State.Marks, again)
	return true
}

func mutLeakMark(ev *Evidence, rng *rand.Rand) bool {
	i, ok := pick(rng, ev.marks(func(m *LetterMark) bool { return !m.Committed }))
	if ok {
		ev.State.Marks[i].Committed = true
	}
	return ok
}

func mutRelease(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, func(l *Log, r *Record) bool { return isReplay(l, r) && r.Ckpt > 0 }))
	if ok {
		ev.record(r).Ckpt++
	}
	return ok
}

// mutSwapReplays exchanges two replays of a key in one Kafka transaction.
func mutSwapReplays(ev *Evidence, rng *rand.Rand) bool {
	if !ev.Rules.Parked {
		return false
	}
	var pairs [][2]ref
	all := records(ev, isReplay)
	for i, a := range all {
		for _, b := range all[i+1:] {
			x, y := ev.record(a), ev.record(b)
			if a.log == b.log && x.Key == y.Key && x.Producer == y.Producer {
				pairs = append(pairs, [2]ref{a, b})
			}
		}
	}
	p, ok := pick(rng, pairs)
	if ok {
		x, y := ev.record(p[0]), ev.record(p[1])
		*x, *y = *y, *x
		x.Offset, y.Offset = y.Offset, x.Offset
		ev.Sightings = nil // it saw the other order
	}
	return ok
}

// mutReopen lets a letter be open that others of its key went past.
func mutReopen(ev *Evidence, rng *rand.Rand) bool {
	if !ev.Rules.Parked {
		return false
	}
	letters, events := newDesk(ev), records(ev, isEvent)
	i, ok := pick(rng, ev.marks(func(m *LetterMark) bool {
		letter, ok := letters.at(m.Letter)
		if !m.Committed || m.Action != Replayed && m.Action != Purged || !ok || letter.Reason == parked {
			return false
		}
		row := slices.IndexFunc(ev.Oracle.Rows, func(r Row) bool { return r.ID == m.ID })
		return row >= 0 && slices.ContainsFunc(events, func(r ref) bool {
			rec := ev.record(r)
			return rec.Key == ev.Oracle.Rows[row].Key && rec.At().Compare(ev.Oracle.At(row)) > 0
		})
	}))
	if !ok {
		return false
	}
	m := ev.State.Marks[i]
	ev.State.Marks = slices.Delete(ev.State.Marks, i, i+1)
	for _, r := range records(ev, isReplay) {
		if rec := ev.record(r); rec.ID == m.ID {
			ev.Sightings = nil
			ev.remove(r)
			break
		}
	}
	return true
}

// mutPark says of the first letter of a blocked key that it was parked.
func mutPark(ev *Evidence, rng *rand.Rand) bool {
	if !ev.Rules.Parked {
		return false
	}
	var all []ref
	letters := records(ev, isLetter)
	for _, r := range records(ev, isBlocking) {
		row := ev.rowOf(ev.record(r))
		if row < 0 || ev.before(letters, row) {
			continue
		}
		if ev.open(&ev.Logs[r.log], ev.record(r)) {
			continue // then it would be parked behind nothing at the end, too
		}
		all = append(all, r)
	}
	r, ok := pick(rng, all)
	if ok {
		ev.Oracle.Rows[ev.rowOf(ev.record(r))].Poison = false
		ev.record(r).Reason = parked
	}
	return ok
}

// before tells whether the row of the same key before this one is a letter.
func (ev *Evidence) before(letters []ref, row int) bool {
	for i := row - 1; i >= 0; i-- {
		if ev.Oracle.Rows[i].Key == ev.Oracle.Rows[row].Key {
			return slices.ContainsFunc(letters, func(r ref) bool { return ev.record(r).ID == ev.Oracle.Rows[i].ID })
		}
	}
	return false
}

// open tells whether no mark closes a letter.
func (ev *Evidence) open(l *Log, r *Record) bool {
	return len(ev.marks(func(m *LetterMark) bool {
		return m.Committed && m.ID == r.ID && m.closes(l.Topic, l.Partition, r.Offset)
	})) == 0
}

func mutReplace(ev *Evidence, rng *rand.Rand) bool {
	r, ok := pick(rng, records(ev, func(l *Log, r *Record) bool { return isBlocking(l, r) && !ev.open(l, r) }))
	if !ok || ev.Rules.Parked {
		return false
	}
	again := *ev.record(r)
	again.Again = true
	ev.append(int(r.log), again)
	return true
}

// mutForget: the letter that holds others back was purged, and they stay.
func mutForget(ev *Evidence, rng *rand.Rand) bool {
	if !ev.Rules.Parked {
		return false
	}
	blocking, waiting := map[Name][]ref{}, map[Name]bool{}
	var keys []Name
	for _, r := range records(ev, func(l *Log, r *Record) bool { return l.Letters && r.Committed }) {
		rec := ev.record(r)
		switch {
		case !ev.open(&ev.Logs[r.log], rec):
		case rec.Reason == parked:
			waiting[rec.Key] = true
		default:
			if len(blocking[rec.Key]) == 0 {
				keys = append(keys, rec.Key)
			}
			blocking[rec.Key] = append(blocking[rec.Key], r)
		}
	}
	keys = slices.DeleteFunc(keys, func(k Name) bool { return len(blocking[k]) > 1 || !waiting[k] })
	key, ok := pick(rng, keys)
	if !ok {
		return false
	}
	r := blocking[key][0]
	l, s := &ev.Logs[r.log], &ev.State
	s.Marks = append(s.Marks, LetterMark{
		Offset: s.HW, ID: ev.record(r).ID, Action: Purged, Letter: Place{l.Topic, l.Partition, ev.record(r).Offset}, Fate: Commit, Committed: true,
	})
	s.HW, s.LSO = s.HW+2, s.LSO+2
	return true
}
