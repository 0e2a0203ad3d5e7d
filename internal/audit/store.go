package audit

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"os"
	"path/filepath"
	"strconv"
)

const (
	// buckets is how many files the entries are spread over.
	buckets = 256
	// bucketBuffer is what a bucket holds in memory before it gets a file.
	bucketBuffer = 64 << 10
)

// store spreads entries over files by id, so that all entries of an id are in
// one of them. It is for one goroutine.
type store struct {
	parent string
	dir    string // "" until something is written
	seed   maphash.Seed
	bucket [buckets]struct {
		buf  []byte
		file *os.File
	}
	entries int64
}

func newStore(parent string) (*store, error) {
	if parent != "" {
		if _, err := os.Stat(parent); err != nil {
			return nil, err
		}
	}
	return &store{parent: parent, seed: maphash.MakeSeed()}, nil
}

// hash is the same for equal bytes within one run, and of no use to anybody
// afterwards.
func (s *store) hash(b []byte) uint64   { return maphash.Bytes(s.seed, b) }
func (s *store) text(t string) uint64   { return maphash.String(s.seed, t) }
func (s *store) bucketOf(id string) int { return int(s.text(id) % buckets) }

func (s *store) add(e *entry) error {
	b := &s.bucket[s.bucketOf(e.id)]
	b.buf = e.append(b.buf)
	s.entries++
	if len(b.buf) < bucketBuffer {
		return nil
	}
	if b.file == nil {
		if err := s.open(s.bucketOf(e.id)); err != nil {
			return err
		}
	}
	if _, err := b.file.Write(b.buf); err != nil {
		return err
	}
	b.buf = b.buf[:0]
	return nil
}

func (s *store) open(i int) error {
	if s.dir == "" {
		dir, err := os.MkdirTemp(s.parent, "outbox-audit-")
		if err != nil {
			return err
		}
		s.dir = dir
	}
	var err error
	s.bucket[i].file, err = os.Create(filepath.Join(s.dir, strconv.Itoa(i)))
	return err
}

// read returns the entries of a bucket and gives its file up.
func (s *store) read(i int) ([]entry, error) {
	b := &s.bucket[i]
	data := b.buf
	if b.file != nil {
		head, err := os.ReadFile(b.file.Name())
		if err != nil {
			return nil, err
		}
		data = append(head, b.buf...)
		err = errors.Join(b.file.Close(), os.Remove(b.file.Name()))
		b.file = nil
		if err != nil {
			return nil, err
		}
	}
	b.buf = nil
	return parseEntries(data)
}

func (s *store) close() {
	for i := range s.bucket {
		if f := s.bucket[i].file; f != nil {
			f.Close()
		}
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // what is left is a temporary file
	}
}

// kind is what an entry stands for.
type kind uint8

const (
	kindRow     kind = iota + 1 // in the table
	kindEvent                   // in a topic of events
	kindLetter                  // in the topic of dead letters, of the relay
	kindPending                 // in the WAL, behind the checkpoint
)

// flags of an entry.
const (
	rejected     = 1 << iota // row: the router makes no event of it
	replayed                 // event: marked as the replay of a letter
	late                     // event: its place is not behind the one before it
	newer                    // event: committed after the snapshot
	noValue                  // letter: the payload was left out
	noKey                    // letter: so was the key
	noHeaders                // letter: not all headers are there
	hasPartition             // row: asks for a partition
	younger                  // row: written after the last one that was published
	gone                     // event: of a part of the history that the database no longer has
)

// entry is one side of a comparison.
type entry struct {
	kind  kind
	flags uint16
	id    string

	topic, key, value, headers uint64 // hashes

	created   int64 // row: Unix microseconds; 0 is not known
	partition int32 // row: what it asks for, else the hash of its key; record: where it is
	offset    int64 // record; row: its number in the order of reading, from 0
	log       uint32
	place     place // event
	before    place // event that is late: the one it should stand behind
}

// place is a position in the history of a database.
type place struct {
	timeline int32
	lsn      uint64
	ordinal  uint64
}

func (e *entry) has(flag uint16) bool { return e.flags&flag != 0 }

func (e *entry) append(b []byte) []byte {
	b = append(b, byte(e.kind))
	b = binary.AppendUvarint(b, uint64(e.flags))
	b = binary.AppendUvarint(b, uint64(len(e.id)))
	b = append(b, e.id...)
	if e.kind == kindPending {
		return b
	}
	for _, h := range [...]uint64{e.topic, e.key, e.value, e.headers} {
		b = binary.LittleEndian.AppendUint64(b, h)
	}
	b = binary.AppendVarint(b, int64(e.partition))
	if e.kind == kindRow {
		return binary.AppendVarint(binary.AppendVarint(b, e.created), e.offset)
	}
	b = binary.AppendVarint(b, e.offset)
	b = binary.AppendUvarint(b, uint64(e.log))
	if e.has(late) {
		b = e.before.append(b)
	}
	return e.place.append(b)
}

func (p place) append(b []byte) []byte {
	b = binary.AppendVarint(b, int64(p.timeline))
	b = binary.AppendUvarint(b, p.lsn)
	return binary.AppendUvarint(b, p.ordinal)
}

// errEntry cannot happen while nobody else writes to the files.
var errEntry = errors.New("a temporary file does not hold what was written to it")

// parseEntries reads what append wrote. Ids share the memory of one string.
func parseEntries(data []byte) ([]entry, error) {
	text := string(data)
	var all []entry
	p := reader{data: data}
	for p.at < len(data) && !p.bad {
		e := entry{kind: kind(p.byte()), flags: uint16(p.uvarint())}
		n := int(p.uvarint())
		if n < 0 || p.at+n > len(data) {
			return nil, errEntry
		}
		e.id = text[p.at : p.at+n]
		p.at += n
		if e.kind != kindPending {
			for _, h := range [...]*uint64{&e.topic, &e.key, &e.value, &e.headers} {
				*h = p.fixed()
			}
			e.partition = int32(p.varint())
			if e.kind == kindRow {
				e.created, e.offset = p.varint(), p.varint()
			} else {
				e.offset, e.log = p.varint(), uint32(p.uvarint())
				if e.has(late) {
					e.before = p.place()
				}
				e.place = p.place()
			}
		}
		all = append(all, e)
	}
	if p.bad {
		return nil, errEntry
	}
	return all, nil
}

type reader struct {
	data []byte
	at   int
	bad  bool
}

func (r *reader) byte() byte {
	if r.at >= len(r.data) {
		r.bad = true
		return 0
	}
	r.at++
	return r.data[r.at-1]
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data[r.at:])
	r.bad = r.bad || n <= 0
	r.at += max(n, 0)
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.data[r.at:])
	r.bad = r.bad || n <= 0
	r.at += max(n, 0)
	return v
}

func (r *reader) fixed() uint64 {
	if r.at+8 > len(r.data) {
		r.bad = true
		return 0
	}
	r.at += 8
	return binary.LittleEndian.Uint64(r.data[r.at-8:])
}

func (r *reader) place() place {
	return place{int32(r.varint()), r.uvarint(), r.uvarint()}
}
