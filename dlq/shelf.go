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
	// Options make one client, see View.
	Options func() ([]kgo.Opt, error)
	// MaxLetters bounds what one Look returns.
	MaxLetters int

	cl      *kgo.Client
	letters map[int32]int64 // read up to
	marks   map[int32]int64
	keys    map[string]*heldKey
	// recent are the newest marks: one may be seen before its letter's key is
	// held.
	recent map[string]Mark
	order  []string
	missed bool // a reading brought more marks than recent has room for
}

const (
	recentMarks       = 10_000
	defaultMaxLetters = 2_000
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
	settled   bool // by a mark
}

// Look reads on, and says what may go on of the held keys: the letters behind a
// blocking one that was replayed or purged, up to the next that was not.
func (s *Shelf) Look(ctx context.Context, held []Held) ([]Release, error) {
	if err := s.read(ctx, held); err != nil {
		s.forget()
		return nil, kafka.Classify("look for letters to release", err)
	}
	left := cmp.Or(s.MaxLetters, defaultMaxLetters)
	var out []Release
	for _, h := range held {
		r, lines, ok := s.keys[h.Hash].release(h, left)
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
		if left -= len(lines); left <= 0 {
			break
		}
	}
	return out, nil
}

// release decides about one key.
func (k *heldKey) release(h Held, most int) (Release, []line, bool) {
	r := Release{Hash: h.Hash, Seen: uint64(len(k.letters))}
	if r.Seen < h.Letters {
		// A letter that is not seen may be one that blocks.
		return r, nil, false
	}
	slices.SortFunc(k.letters, func(a, b line) int {
		return cmp.Or(a.place.Compare(b.place), cmp.Compare(a.offset, b.offset))
	})
	var free []line
	for _, l := range k.letters {
		switch {
		case l.settled:
		case !l.parked || len(free) == most:
			return r, free, len(free) > 0
		default:
			free = append(free, l)
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
		return s.keys[hash].add(r, s.recent)
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

func (k *heldKey) add(r *kgo.Record, recent map[string]Mark) error {
	l, err := Parse(r)
	if err != nil {
		return err
	}
	place, ok := PlaceOf(l.Headers)
	if !ok || l.Group != "" || place.Compare(k.from) < 0 {
		return nil // of another writer, or from before the key was held
	}
	entry := line{
		place: place, mark: markKey(l.ID(), "", r.Partition, r.Offset),
		parked: l.Reason == Parked, partition: r.Partition, offset: r.Offset,
	}
	if m, ok := recent[entry.mark]; ok {
		entry.settled = m.Closes(r.Partition, r.Offset)
	}
	k.letters = append(k.letters, entry)
	return nil
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
