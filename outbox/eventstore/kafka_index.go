package eventstore

import (
	"container/list"

	"github.com/google/uuid"
)

// index is what one partition holds, as far as it was read: the head of each
// stream and the newest ids. Both are bounded. A stream that was forgotten can
// be recalled by reading the partition; an id that was is not noticed any more.
type index struct {
	next int64 // offset to read next

	streams   int // limit
	heads     map[string]*list.Element
	recent    *list.List // of *streamHead, last used first
	forgotten bool       // a stream was: not being in heads says nothing

	window int // limit
	ids    map[uuid.UUID]entry
	ring   []uuid.UUID
	oldest int
}

// streamHead is where a stream is and where in the partition it lies.
type streamHead struct {
	stream      string
	version     int64
	first, last int64 // offsets; first may be too low
}

func newIndex(streams, window int) *index {
	return &index{
		streams: streams, heads: map[string]*list.Element{}, recent: list.New(),
		window: window, ids: map[uuid.UUID]entry{},
	}
}

// head returns a stream's head. ok is false if only reading again could tell.
func (x *index) head(stream string) (h streamHead, ok bool) {
	if e, here := x.heads[stream]; here {
		x.recent.MoveToFront(e)
		return *e.Value.(*streamHead), true
	}
	return streamHead{stream: stream}, !x.forgotten
}

// add takes the next event of the partition. It returns the version that the
// event should have, if that can be known, and whether it has it.
func (x *index) add(ev *Recorded, offset int64) (want int64, fits bool) {
	e, here := x.heads[ev.Stream]
	switch {
	case here:
		h := e.Value.(*streamHead)
		if ev.Version != h.version+1 {
			return h.version + 1, false
		}
		h.version, h.last = ev.Version, offset
		x.recent.MoveToFront(e)
	case ev.Version == 1:
		x.keep(streamHead{stream: ev.Stream, version: 1, first: offset, last: offset})
	case x.forgotten:
		x.keep(streamHead{stream: ev.Stream, version: ev.Version, last: offset})
	default:
		return 1, false
	}
	if id, err := uuid.Parse(ev.ID); err == nil {
		x.remember(id, entry{ev.Stream, ev.Version})
	}
	x.next = offset + 1
	return ev.Version, true
}

func (x *index) keep(h streamHead) {
	x.heads[h.stream] = x.recent.PushFront(&h)
	if len(x.heads) > x.streams {
		oldest := x.recent.Back()
		delete(x.heads, x.recent.Remove(oldest).(*streamHead).stream)
		x.forgotten = true
	}
}

func (x *index) remember(id uuid.UUID, e entry) {
	if len(x.ring) < x.window {
		x.ring = append(x.ring, id)
	} else {
		delete(x.ids, x.ring[x.oldest])
		x.ring[x.oldest] = id
		x.oldest = (x.oldest + 1) % x.window
	}
	x.ids[id] = e
}

// find looks the ids up in one stream. Other streams may have them as well:
// those in other partitions cannot be seen from here, so those in this one do
// not count either.
func (x *index) find(stream string, events []Event) map[string]entry {
	found := map[string]entry{}
	for i := range events {
		if id, err := uuid.Parse(events[i].ID); err == nil {
			if e, ok := x.ids[id]; ok && e.stream == stream {
				found[events[i].ID] = e
			}
		}
	}
	return found
}
