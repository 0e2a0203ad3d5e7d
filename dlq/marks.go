package dlq

import (
	"crypto/sha256"
	"slices"
	"time"
)

// marks are the newest marks by key: all that has to be known of letters that
// are closed. An entry costs about 120 bytes, whatever the id, so ten million
// letters that were ever handled are some 1.2 GB; letters that are open and
// untouched cost nothing.
type marks map[markID]entry

// markID is a hash of the key: ids may be long.
type markID [16]byte

// entry is what is kept of a mark.
type entry struct {
	offset    int64
	nextAt    int64 // microseconds, of a deferred letter
	also      []Spot
	partition int32
	attempts  int32
	action    Action
}

func idOf(key string) (id markID) {
	sum := sha256.Sum256([]byte(key))
	copy(id[:], sum[:])
	return id
}

func (m marks) set(mark *Mark) {
	e := entry{
		offset: mark.Letter.Offset, partition: mark.Letter.Partition, attempts: int32(mark.Attempts),
		action: mark.Action, also: mark.Also,
	}
	if !mark.NextAt.IsZero() {
		e.nextAt = mark.NextAt.UnixMicro()
	}
	m[idOf(mark.Key())] = e
}

// Status is what became of a letter so far.
type Status struct {
	Open bool
	// Action is that of the mark, "" if there is none.
	Action Action
	// Attempts and NextAt are the letter's own, or those of a later attempt
	// that was refused.
	Attempts int
	NextAt   time.Time
}

// of tells what became of a letter.
func (m marks) of(l *Letter, at Spot) Status {
	open := Status{Open: true, Attempts: l.Attempts, NextAt: l.NextAt}
	e, ok := m[idOf(markKey(l.ID(), l.Group, at.Partition, at.Offset))]
	if !ok {
		return open
	}
	mark := Mark{Action: e.action, Letter: Spot{Partition: e.partition, Offset: e.offset}, Also: e.also}
	switch {
	case mark.Closes(at.Partition, at.Offset):
		return Status{Action: e.action, Attempts: l.Attempts}
	case e.action == Deferred && e.partition == at.Partition && e.offset == at.Offset:
		s := Status{Open: true, Action: Deferred, Attempts: max(l.Attempts, int(e.attempts))}
		if e.nextAt != 0 {
			s.NextAt = time.UnixMicro(e.nextAt).UTC()
		}
		return s
	}
	return open
}

// join makes a mark that may replace the newest one of its key: it closes what
// that one closed.
func (m marks) join(mark *Mark) {
	e, ok := m[idOf(mark.Key())]
	if !ok {
		return
	}
	closed := slices.Clone(e.also)
	last := e.offset
	if e.action == Deferred {
		last-- // what was deferred is open itself
	}
	if last >= 0 {
		closed = append(closed, Spot{Topic: mark.Letter.Topic, Partition: e.partition, Offset: last})
	}
	for _, p := range closed {
		i := slices.IndexFunc(mark.Also, func(q Spot) bool { return q.Partition == p.Partition })
		switch {
		case p.Partition == mark.Letter.Partition && p.Offset <= mark.Letter.Offset && mark.Action != Deferred,
			p.Partition == mark.Letter.Partition && p.Offset < mark.Letter.Offset:
		case i < 0:
			mark.Also = append(mark.Also, p)
		case mark.Also[i].Offset < p.Offset:
			mark.Also[i] = p
		}
	}
}
