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
	// Alone says that no other has any reason to.
	Alone bool
	plant func(*Evidence, *rand.Rand) bool
}

// Mutations returns every fault that the checker promises to notice.
func Mutations() []Mutation {
	return []Mutation{
		{Name: "oracle misses a transaction", Breaks: P0, plant: mutOracleHole},
		{Name: "table holds a row that the slot does not", Breaks: P0, plant: mutTable},
		{Name: "drop a row", Breaks: P1, plant: mutDropEvent},
		{Name: "drop a letter", Breaks: P1, plant: mutDropLetter},
		{Name: "repeat a row", Breaks: P2, plant: mutRepeat},
		{Name: "repeat a row under another position", Breaks: P2, plant: mutRepeatElsewhere},
		{Name: "invent a record", Breaks: P3, plant: mutInvent},
		{Name: "alter a payload", Breaks: P3, plant: mutPayload},
		{Name: "publish a row that was rolled back", Breaks: P3, plant: mutUndone},
		{Name: "swap two of a key", Breaks: P4, plant: mutSwap},
		{Name: "move to another offset", Breaks: P5, plant: mutMoveOffset},
		{Name: "re-key", Breaks: P6, plant: mutKey},
		{Name: "move to another partition", Breaks: P6, plant: mutMovePartition},
		{Name: "move to another topic", Breaks: P6, plant: mutMoveTopic},
		{Name: "leak an aborted record", Breaks: P7, plant: mutLeak},
		{Name: "hide a committed record", Breaks: P7, plant: mutHide},
		{Name: "tear a transaction", Breaks: P7, plant: mutTear},
		{Name: "split a group", Breaks: P8, plant: mutSplit},
		{Name: "drop a checkpoint's record", Breaks: P8, plant: mutLoseCheckpoint},
		{Name: "write a row with another producer", Breaks: P8, plant: mutProducer},
		{Name: "regress a checkpoint", Breaks: P9, plant: mutRegress},
		{Name: "repeat a checkpoint seq", Breaks: P9, plant: mutRepeatSeq},
		{Name: "skip a checkpoint seq", Breaks: P9, plant: mutSkipSeq},
		{Name: "return of a session", Breaks: P9, plant: mutZombie},
		{Name: "confirm ahead of the checkpoint", Breaks: P10, plant: mutConfirm},
		{Name: "slot goes back", Breaks: P10, plant: mutSlotBack},
		{Name: "insert below a seen offset", Breaks: P11, plant: mutInsertSeen},
		{Name: "lose what was seen", Breaks: P11, plant: mutVanish},
		{Name: "leave a transaction open", Breaks: P12, plant: mutOpen},
		{Name: "publish poison", Breaks: P13, plant: mutPoison},
		{Name: "make a letter of a sound row", Breaks: P13, plant: mutFalseLetter},
		{Name: "make a letter for another reason", Breaks: P13, plant: mutReason},
		{Name: "double a replay", Breaks: P14, Alone: true, plant: mutDoubleReplay},
		{Name: "replay what was no letter", Breaks: P14, Alone: true, plant: mutReplayEvent},
		{Name: "alter a replay", Breaks: P14, Alone: true, plant: mutAlterReplay},
		{Name: "drop a replay", Breaks: P14, Alone: true, plant: mutDropReplay},
		{Name: "drop a mark", Breaks: P14, Alone: true, plant: mutDropMark},
		{Name: "purge what was replayed", Breaks: P14, Alone: true, plant: mutPurge},
		{Name: "mark a letter twice", Breaks: P14, Alone: true, plant: mutMarkTwice},
		{Name: "show a mark that was aborted", Breaks: P14, plant: mutLeakMark},
		{Name: "number a release with another checkpoint", Breaks: P8, Alone: true, plant: mutRelease},
		{Name: "swap two that waited", Breaks: P4, Alone: true, plant: mutSwapReplays},
		{Name: "send what a letter holds back", Breaks: P13, Alone: true, plant: mutReopen},
		{Name: "park behind nothing", Breaks: P13, Alone: true, plant: mutPark},
		{Name: "repeat a letter as if it were replaced", Breaks: P14, Alone: true, plant: mutReplace},
		{Name: "recover outside of a recovery", Breaks: P8, plant: mutOutside},
		{Name: "pass an event off as recovered", Breaks: P8, plant: mutPretend},
		{Name: "recover at the position of a row", Breaks: P3, plant: mutUsurp},
		{Name: "recover before the commit", Breaks: P3, plant: mutTooEarly},
		{Name: "go on elsewhere than a recovery ends", Breaks: P10, plant: mutLeave},
		{Name: "forget what is parked", Breaks: P12, Alone: true, plant: mutForget},
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
	ev.State.Marks = slices.Clone(ev.State.Marks)
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

func isEvent(l *Log, r *Record) bool  { return r.delivery() && !l.Letters }
func isLetter(l *Log, r *Record) bool { return r.delivery() && l.Letters }
func isShown(_ *Log, r *Record) bool  { return r.delivery() }
func isReplay(l *Log, r *Record) bool { return r.Committed && r.Replayed && !l.Letters }

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
