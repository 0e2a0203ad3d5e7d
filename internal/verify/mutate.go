package verify

import (
	"math/rand/v2"
	"slices"
)

// Mutation is a fault that Mutate plants.
type Mutation struct {
	Name string
	// Breaks is the property that has to notice. Others may as well.
	Breaks Property
	plant  func(*Evidence, *rand.Rand) bool
}

// Mutations returns every fault that the checker promises to notice.
func Mutations() []Mutation {
	return []Mutation{
		{"oracle misses a transaction", P0, mutOracleHole},
		{"table holds a row that the slot does not", P0, mutTable},
		{"drop a row", P1, mutDropEvent},
		{"drop a letter", P1, mutDropLetter},
		{"repeat a row", P2, mutRepeat},
		{"repeat a row under another position", P2, mutRepeatElsewhere},
		{"invent a record", P3, mutInvent},
		{"alter a payload", P3, mutPayload},
		{"publish a row that was rolled back", P3, mutUndone},
		{"swap two of a key", P4, mutSwap},
		{"move to another offset", P5, mutMoveOffset},
		{"re-key", P6, mutKey},
		{"move to another partition", P6, mutMovePartition},
		{"move to another topic", P6, mutMoveTopic},
		{"leak an aborted record", P7, mutLeak},
		{"hide a committed record", P7, mutHide},
		{"tear a transaction", P7, mutTear},
		{"split a group", P8, mutSplit},
		{"drop a checkpoint's record", P8, mutLoseCheckpoint},
		{"write a row with another producer", P8, mutProducer},
		{"regress a checkpoint", P9, mutRegress},
		{"repeat a checkpoint seq", P9, mutRepeatSeq},
		{"skip a checkpoint seq", P9, mutSkipSeq},
		{"return of a session", P9, mutZombie},
		{"confirm ahead of the checkpoint", P10, mutConfirm},
		{"slot goes back", P10, mutSlotBack},
		{"insert below a seen offset", P11, mutInsertSeen},
		{"lose what was seen", P11, mutVanish},
		{"leave a transaction open", P12, mutOpen},
		{"publish poison", P13, mutPoison},
		{"make a letter of a sound row", P13, mutFalseLetter},
	}
}

// Mutate returns a copy of the evidence with one fault planted, or false if
// the evidence has no place for this one.
func Mutate(ev Evidence, m Mutation, rng *rand.Rand) (Evidence, bool) {
	c := clone(ev)
	ok := m.plant(&c, rng)
	return c, ok
}

func clone(ev Evidence) Evidence {
	ev.Oracle.Txs = slices.Clone(ev.Oracle.Txs)
	ev.Oracle.Rows = slices.Clone(ev.Oracle.Rows)
	ev.Logs = slices.Clone(ev.Logs)
	for i := range ev.Logs {
		ev.Logs[i].Records = slices.Clone(ev.Logs[i].Records)
	}
	ev.Checkpoints = slices.Clone(ev.Checkpoints)
	ev.Samples = slices.Clone(ev.Samples)
	ev.Sightings = slices.Clone(ev.Sightings)
	for i := range ev.Sightings {
		ev.Sightings[i].Offsets = slices.Clone(ev.Sightings[i].Offsets)
		ev.Sightings[i].IDs = slices.Clone(ev.Sightings[i].IDs)
	}
	return ev
}

// pick returns a random element of those that fit.
func pick[T any](rng *rand.Rand, all []T) (T, bool) {
	var zero T
	if len(all) == 0 {
		return zero, false
	}
	return all[rng.IntN(len(all))], true
}

// records returns the records that fit. A row from before the first checkpoint
// is owed to nobody, but it is not in the logs either.
func records(ev *Evidence, fit func(*Log, *Record) bool) []ref {
	var all []ref
	for i := range ev.Logs {
		for j := range ev.Logs[i].Records {
			if fit(&ev.Logs[i], &ev.Logs[i].Records[j]) {
				all = append(all, ref{int32(i), int32(j)})
			}
		}
	}
	return all
}

func isEvent(l *Log, r *Record) bool  { return r.Committed && !l.Letters }
func isLetter(l *Log, r *Record) bool { return r.Committed && l.Letters }
func isShown(_ *Log, r *Record) bool  { return r.Committed }

func (ev *Evidence) record(r ref) *Record { return &ev.Logs[r.log].Records[r.rec] }

func (ev *Evidence) remove(r ref) {
	l := &ev.Logs[r.log]
	l.Records = slices.Delete(l.Records, int(r.rec), int(r.rec)+1)
}

// append puts a record at the end of a log, where a live reader need not have
// been.
func (ev *Evidence) append(log int, r Record) {
	l := &ev.Logs[log]
	r.Offset = l.HW
	l.HW, l.LSO = l.HW+1, l.LSO+1
	l.Records = append(l.Records, r)
}

// rowOf finds the row of a record.
func (ev *Evidence) rowOf(r *Record) int {
	for i := range ev.Oracle.Rows {
		if ev.Oracle.At(i) == r.At() {
			return i
		}
	}
	return -1
}
