package verify

import (
	"slices"
	"sort"
)

// letterKey is what a letter and its replays have in common. Groups of
// consumers fail and recover each on its own.
type letterKey struct {
	id    ID
	group Name
}

func (r *Record) letterKey() letterKey { return letterKey{r.ID, r.Group} }

// desk is where letters, marks and replays lie side by side.
type desk struct {
	ev      *Evidence
	letters map[letterKey][]ref // in the order of logs and offsets
	marks   map[letterKey][]*LetterMark
	replays map[letterKey][]ref
}

func newDesk(ev *Evidence) *desk {
	d := &desk{ev: ev, letters: map[letterKey][]ref{}, marks: map[letterKey][]*LetterMark{}, replays: map[letterKey][]ref{}}
	for i := range ev.Logs {
		if !ev.Logs[i].Letters {
			continue
		}
		for j := range ev.Logs[i].Records {
			if r := &ev.Logs[i].Records[j]; r.Committed {
				d.letters[r.letterKey()] = append(d.letters[r.letterKey()], ref{int32(i), int32(j)})
			}
		}
	}
	for i := range ev.State.Marks {
		if m := &ev.State.Marks[i]; m.Committed && m.Fault == "" {
			key := letterKey{m.ID, m.Group}
			d.marks[key] = append(d.marks[key], m)
		}
	}
	return d
}

// successor tells whether a letter takes the place of one that was parked: the
// relay sent that one on, a broker refused it, and so it was purged in the
// transaction that holds this one. Its row was counted as the first.
func (d *desk) successor(r *Record) bool {
	key := r.letterKey()
	return slices.ContainsFunc(d.marks[key], func(m *LetterMark) bool {
		first, ok := d.at(m.Letter)
		return ok && first != r && first.Reason == parked && m.Action == Purged && m.Producer == r.Producer
	})
}

// letter returns the first letter of a key, or nil.
func (d *desk) letter(key letterKey) *Record {
	for _, r := range d.letters[key] {
		return &d.ev.Logs[r.log].Records[r.rec]
	}
	return nil
}

// open tells whether the relay's letter of an event is not done with, and
// whether it is so because it waits for another. A replay without its mark is
// P14's to tell; here it counts, so that one fault is told once.
func (d *desk) open(id ID) (open, waits bool) {
	key := letterKey{id: id}
	sent := 0
	for _, m := range d.marks[key] {
		if m.Action.sends() {
			sent++
		}
	}
	if len(d.replays[key]) > sent {
		return false, false
	}
	for _, r := range d.letters[key] {
		l := &d.ev.Logs[r.log]
		rec := &l.Records[r.rec]
		if !slices.ContainsFunc(d.marks[key], func(m *LetterMark) bool { return m.closes(l.Topic, l.Partition, rec.Offset) }) {
			open, waits = true, rec.Reason == parked
		}
	}
	return open, waits
}

// released returns the number of the checkpoint with which the relay sent a
// letter on; 0: it did not.
func (d *desk) released(f *facts, letter ref) uint64 {
	for _, r := range d.replays[f.record(letter).letterKey()] {
		if n := f.record(r).Ckpt; n > 0 {
			return n
		}
	}
	return 0
}

// at finds the letter at a place.
func (d *desk) at(p Place) (*Record, bool) {
	for i := range d.ev.Logs {
		l := &d.ev.Logs[i]
		if !l.Letters || l.Topic != p.Topic || l.Partition != p.Partition {
			continue
		}
		k := sort.Search(len(l.Records), func(k int) bool { return l.Records[k].Offset >= p.Offset })
		if k < len(l.Records) && l.Records[k].Offset == p.Offset {
			return &l.Records[k], true
		}
	}
	return nil, false
}
