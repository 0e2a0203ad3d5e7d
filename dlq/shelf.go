package dlq

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// Held is a key whose events wait as letters behind an earlier letter.
type Held struct {
	Hash string // see KeyHash
	From Place  // of the first letter
	// Letters counts the relay's letters of this key, from there on.
	Letters uint64
	// Partition and Offset are where the first letter is; Offset -1: unknown.
	Partition int32
	Offset    int64
}

// HeldLetter is a letter that may go on, and where it is.
type HeldLetter struct {
	Letter
	At Spot
}

// Release is what may go on of one key, in order.
type Release struct {
	Hash    string
	Letters []HeldLetter
	// Seen is how many letters of the key were known when this was decided,
	// and Done that nothing of them is left to wait for.
	Seen uint64
	Done bool
}

// Shelf knows the letters of held keys and what became of them. It reads the
// topic of letters once from where the first held letter is, and then only
// what is new. It is for one goroutine.
//
// It keeps a line for each letter of a held key, not its payload; those are
// fetched when their turn comes.
type Shelf struct {
	Topic string
	// Relay is whose letters they are, by its name; "": everybody's. What
	// another relay has parked in the same topic is not ours to send on.
	Relay string
	// Options make one client, see View.
	Options func() ([]kgo.Opt, error)
	// MaxLetters bounds what one Look returns, and so does MaxBytes, but for a
	// single letter.
	MaxLetters int
	MaxBytes   int
	// Forgive takes letters that are no longer in their topic for dealt with.
	// Otherwise their keys are held for good.
	Forgive bool

	cl      *kgo.Client
	letters map[int32]int64 // read up to
	marks   map[int32]int64
	keys    map[string]*heldKey
	// recent are the newest marks: one may be seen before its letter's key is
	// held.
	recent map[string]Mark
	order  []string
	turn   int  // whose letters come first
	missed bool // a reading brought more marks than recent has room for
}

const (
	recentMarks = 10_000
	// DefaultMaxLetters is for a zero MaxLetters.
	DefaultMaxLetters = 2_000
)

type heldKey struct {
	from    Place
	letters []line
}

// line is what is kept of a letter.
type line struct {
	place     Place
	mark      string // key of its marks
	parked    bool
	partition int32
	offset    int64
	size      int
	settled   bool // by a mark
}

// Look reads on, and says what may go on of the held keys: the letters behind a
// blocking one that was replayed or purged, up to the next that was not. With an
// error of code ParkedGone what is returned may go on all the same.
func (s *Shelf) Look(ctx context.Context, held []Held) ([]Release, error) {
	if err := s.read(ctx, held); err != nil {
		s.forget()
		return nil, kafka.Classify("look for letters to release", err)
	}
	left, room := cmp.Or(s.MaxLetters, DefaultMaxLetters), cmp.Or(s.MaxBytes, maxBatchSize)
	var out []Release
	var gone error
	for i := range held {
		// Not always the same first: one whose letters cannot be sent would
		// keep all others waiting.
		h := held[(s.turn+i)%len(held)]
		k := s.keys[h.Hash]
		if seen := uint64(len(k.letters)); seen < h.Letters && !s.Forgive {
			// All of them were committed before they were counted. One that is
			// not there may be one that blocks.
			gone = fault.New(fault.ParkedGone, "%d of %d letters of a parked key are not in topic %s", h.Letters-seen, h.Letters, s.Topic)
			continue
		}
		r, lines, ok := k.release(h, left, room)
		if !ok {
			continue
		}
		letters, err := s.fetch(ctx, lines)
		if err != nil {
			s.forget()
			return nil, kafka.Classify("fetch letters to release", err)
		}
		r.Letters = letters
		out = append(out, r)
		left -= len(lines)
		for _, l := range lines {
			room -= l.size
		}
		if left <= 0 || room <= 0 {
			s.turn = (s.turn + i + 1) % len(held)
			break
		}
	}
	return out, gone
}

// release decides about one key.
func (k *heldKey) release(h Held, most, room int) (Release, []line, bool) {
	r := Release{Hash: h.Hash, Seen: max(uint64(len(k.letters)), h.Letters)}
	slices.SortFunc(k.letters, func(a, b line) int {
		return cmp.Or(a.place.Compare(b.place), cmp.Compare(a.offset, b.offset))
	})
	var free []line
	for _, l := range k.letters {
		switch {
		case l.settled:
		case !l.parked || len(free) == most || len(free) > 0 && l.size > room:
			return r, free, len(free) > 0
		default:
			free = append(free, l)
			room -= l.size
		}
	}
	r.Done = true
	return r, free, true
}

// read brings what is known up to date.
func (s *Shelf) read(ctx context.Context, held []Held) error {
	if s.cl == nil {
		opts, err := s.Options()
		if err != nil {
			return err
		}
		cl, err := kgo.NewClient(opts...)
		if err != nil {
			return fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
		}
		s.cl, s.keys = cl, map[string]*heldKey{}
		s.letters, s.marks = map[int32]int64{}, map[int32]int64{}
		s.recent = map[string]Mark{}
	}
	adm := kadm.NewClient(s.cl)
	// The marks' end comes first: every letter that they speak of is then below
	// the letters' end.
	marksEnd, err := ends(ctx, adm, StateTopic(s.Topic))
	if err != nil {
		return err
	}
	lettersEnd, err := ends(ctx, adm, s.Topic)
	if err != nil {
		return err
	}
	starts, err := adm.ListStartOffsets(ctx, s.Topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return err
	}
	before := maps.Clone(s.letters) // of the keys that were held already
	from := maps.Clone(s.letters)
	fresh, wanted := map[string]bool{}, map[string]bool{}
	anew := false // a key whose first letter may be anywhere
	for _, h := range held {
		wanted[h.Hash] = true
		if k := s.keys[h.Hash]; k != nil && k.from == h.From {
			continue
		}
		s.keys[h.Hash], fresh[h.Hash] = &heldKey{from: h.From}, true
		if h.Offset < 0 || len(lettersEnd) != 1 || s.missed {
			anew = true
		} else if at, read := from[h.Partition]; !read || h.Offset < at {
			from[h.Partition] = h.Offset
		}
	}
	if anew {
		clear(from)
		clear(s.marks)
		s.missed = false
	}
	maps.DeleteFunc(s.keys, func(hash string, _ *heldKey) bool { return !wanted[hash] })
	starts.Each(func(o kadm.ListedOffset) { from[o.Partition] = max(from[o.Partition], o.Offset) })
	err = s.scan(ctx, s.Topic, from, lettersEnd, func(r *kgo.Record) error {
		hash, ok := KeyHash(r)
		if !ok || s.keys[hash] == nil || !fresh[hash] && r.Offset < before[r.Partition] {
			return nil
		}
		s.keys[hash].add(r, s.Relay, s.recent)
		return nil
	})
	if err != nil {
		return err
	}
	s.letters = lettersEnd
	marksStart, err := adm.ListStartOffsets(ctx, StateTopic(s.Topic))
	if err == nil {
		err = marksStart.Error()
	}
	if err != nil {
		return err
	}
	first := len(s.marks) == 0
	marksStart.Each(func(o kadm.ListedOffset) { s.marks[o.Partition] = max(s.marks[o.Partition], o.Offset) })
	byMark := map[string][]*line{}
	for _, k := range s.keys {
		for i := range k.letters {
			byMark[k.letters[i].mark] = append(byMark[k.letters[i].mark], &k.letters[i])
		}
	}
	seen := 0
	err = s.scan(ctx, StateTopic(s.Topic), s.marks, marksEnd, func(r *kgo.Record) error {
		if r.Value == nil {
			return nil
		}
		m, err := ParseMark(r)
		if err != nil {
			return err
		}
		s.remember(string(r.Key), m)
		seen++
		for _, l := range byMark[string(r.Key)] {
			l.settled = m.Closes(l.partition, l.offset)
		}
		return nil
	})
	s.marks, s.missed = marksEnd, s.missed || !first && seen > recentMarks
	return err
}

func (k *heldKey) add(r *kgo.Record, relay string, recent map[string]Mark) {
	l, err := Parse(r)
	if err != nil {
		return // Kafka Connect's, say. If it was ours, it is missed in the count
	}
	place, ok := PlaceOf(l.Headers)
	if !ok || l.Group != "" || relay != "" && l.Relay != relay || place.Compare(k.from) < 0 {
		return // of another writer, or from before the key was held
	}
	entry := line{
		place: place, mark: markKey(l.ID(), "", r.Partition, r.Offset),
		parked: l.Reason == Parked, partition: r.Partition, offset: r.Offset, size: sizeAtMost(r),
	}
	if m, ok := recent[entry.mark]; ok {
		entry.settled = m.Closes(r.Partition, r.Offset)
	}
	k.letters = append(k.letters, entry)
}

func (s *Shelf) remember(key string, m Mark) {
	if _, known := s.recent[key]; !known {
		if s.order = append(s.order, key); len(s.order) > recentMarks {
			delete(s.recent, s.order[0])
			s.order = s.order[1:]
		}
	}
	s.recent[key] = m
}

// fetch reads whole letters.
func (s *Shelf) fetch(ctx context.Context, lines []line) ([]HeldLetter, error) {
	if len(lines) == 0 {
		return nil, nil
	}
	type spot struct {
		partition int32
		offset    int64
	}
	index := map[spot]int{}
	from, to := map[int32]int64{}, map[int32]int64{}
	for i, l := range lines {
		index[spot{l.partition, l.offset}] = i
		if at, ok := from[l.partition]; !ok || l.offset < at {
			from[l.partition] = l.offset
		}
		to[l.partition] = max(to[l.partition], l.offset+1)
	}
	out := make([]HeldLetter, len(lines))
	found := 0
	err := s.scan(ctx, s.Topic, from, to, func(r *kgo.Record) error {
		i, ok := index[spot{r.Partition, r.Offset}]
		if !ok {
			return nil
		}
		l, err := Parse(r)
		out[i], found = HeldLetter{Letter: l, At: Spot{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}}, found+1
		return err
	})
	if err == nil && found != len(lines) {
		err = fault.New(fault.ParkedGone, "%d of %d parked letters are no longer in topic %s", len(lines)-found, len(lines), s.Topic)
	}
	return out, err
}

func (s *Shelf) scan(ctx context.Context, topic string, from, to map[int32]int64, fn func(*kgo.Record) error) error {
	opts, err := s.Options()
	if err != nil {
		return err
	}
	return scan(ctx, opts, topic, from, to, fn)
}

// forget makes the next Look begin anew.
func (s *Shelf) forget() { s.Close() }

// Close ends the client. The shelf can be used again.
func (s *Shelf) Close() {
	if s.cl != nil {
		s.cl.Close()
	}
	s.cl = nil
}
