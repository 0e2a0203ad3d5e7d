package replication_test

import (
	"encoding/binary"
	"testing"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// FuzzDecode: no bytes make the decoder panic or hold more memory than they
// are long, and what it accepts it reads as pglogrepl does.
func FuzzDecode(f *testing.F) {
	for _, c := range captures() {
		for _, m := range readCapture(f, c.name) {
			f.Add(m.data)
		}
	}
	f.Add([]byte("I\x00\x00\x00\x07N\xff\xff"))
	f.Add([]byte("I\x00\x00\x00\x07N\x00\x01t\xff\xff\xff\xff"))
	f.Add(relation(1, "", "", "", ""))
	f.Fuzz(func(t *testing.T, msg []byte) {
		before := string(msg)
		var m replication.Message
		err := replication.Decode(msg, &m)
		if string(msg) != before {
			t.Fatal("the input was written to")
		}
		// Each value takes a byte of the message at least, each column ten.
		size := 0
		for _, v := range m.Values {
			size += 1 + len(v)
		}
		if size > len(msg) || cap(m.Values) > 2*len(msg)+8 {
			t.Fatalf("values of %d bytes, room for %d of them, out of %d bytes", size, cap(m.Values), len(msg))
		}
		if r := m.Relation; r != nil && (10*len(r.Columns) > len(msg) || 10*cap(r.Columns) > 2*len(msg)+80) {
			t.Fatalf("room for %d columns out of %d bytes", cap(r.Columns), len(msg))
		}
		if err != nil {
			return
		}
		switch m.Kind {
		case replication.KindBegin, replication.KindCommit, replication.KindRelation, replication.KindInsert:
			agree(t, msg, &m)
		}
	})
}

// FuzzAssembler takes a whole stream, keepalives included: an error of a known
// code or transactions that make sense, in memory that the input justifies.
func FuzzAssembler(f *testing.F) {
	var all []message
	for _, c := range captures() {
		if c.name == "toast" {
			continue // one large value: slow, and nothing new for a stream
		}
		one := readCapture(f, c.name)
		f.Add(pack(one), uint64(0), uint64(0), uint64(0))
		mid := one[len(one)/2].at
		f.Add(pack(one), uint64(mid), uint64(0), uint64(0))
		all = append(all, one...)
	}
	f.Add(pack(all), uint64(0), uint64(0), uint64(0))
	tables := readCapture(f, "tables")
	for _, m := range tables {
		var b replication.Message
		if replication.Decode(m.data, &b) == nil && b.Kind == replication.KindBegin {
			f.Add(pack(tables), uint64(0), uint64(b.CommitLSN), uint64(3))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, floor, cutLSN, cutOrd uint64) {
		resume := replication.Resume{Floor: pglogrepl.LSN(floor), CutLSN: pglogrepl.LSN(cutLSN), CutOrd: cutOrd}
		if cutLSN < floor {
			resume.CutLSN, resume.CutOrd = 0, 0
		}
		s := sanity{t: t, resume: resume}
		a := replication.NewAssembler("outbox", "events", resume, s.check)
		for at, data := range unpack(stream) {
			var err error
			if len(data) == 0 {
				err = a.Keepalive(at, at%2 == 0)
			} else {
				err = a.Message(at, data)
			}
			if err != nil {
				if !fault.Has(err, fault.WALDecode) {
					t.Fatalf("no halt for the decoder: %v", err)
				}
				break
			}
		}
		if s.data > len(stream) {
			t.Fatalf("%d bytes of values out of a stream of %d", s.data, len(stream))
		}
	})
}

// sanity is what a consumer may take for granted.
type sanity struct {
	t      *testing.T
	resume replication.Resume
	open   *replication.Tx // the last part, if its transaction goes on
	ord    uint64
	seq    uint64
	data   int
}

func (s *sanity) check(tx *replication.Tx) {
	if tx.Idle {
		if s.open != nil || len(tx.Rows) > 0 || tx.EndLSN < s.resume.Floor || tx.EndLSN <= s.resume.CutLSN && s.resume.CutLSN != 0 {
			s.t.Fatalf("idle position %+v inside %v, floor %s, cut %s", tx, s.open, s.resume.Floor, s.resume.CutLSN)
		}
		return
	}
	if s.open == nil {
		s.ord, s.seq = 0, 0
		if tx.CommitLSN == s.resume.CutLSN {
			s.ord = s.resume.CutOrd
		}
	} else if s.open.CommitLSN != tx.CommitLSN || s.open.XID != tx.XID {
		s.t.Fatalf("%s between the parts of %s", tx, s.open)
	}
	if tx.CommitLSN < s.resume.Floor {
		s.t.Fatalf("%s is below the floor %s", tx, s.resume.Floor)
	}
	if !tx.Last && len(tx.Rows) == 0 {
		s.t.Fatal("a part without rows that is not the last")
	}
	if tx.Last && tx.EndLSN <= tx.CommitLSN || !tx.Last && tx.EndLSN != 0 {
		s.t.Fatalf("%s ends at %s, last %t", tx, tx.EndLSN, tx.Last)
	}
	if len(tx.Rows) > replication.PartRows {
		s.t.Fatalf("a part of %d rows", len(tx.Rows))
	}
	held := 0
	for _, r := range tx.Rows {
		if r.Ord <= s.ord || r.Seq <= s.seq || r.Seq > r.Ord {
			s.t.Fatalf("ordinal %d after %d, index %d after %d", r.Ord, s.ord, r.Seq, s.seq)
		}
		s.ord, s.seq = r.Ord, r.Seq
		if len(r.Values) != len(tx.Relation.Columns) {
			s.t.Fatalf("%d values for %d columns", len(r.Values), len(tx.Relation.Columns))
		}
		for _, v := range r.Values {
			held += len(v)
		}
	}
	if held > tx.Bytes {
		s.t.Fatalf("%d bytes of values, counted as %d", held, tx.Bytes)
	}
	s.data += held
	s.open = tx
	if tx.Last {
		s.open = nil
	}
}

// pack writes a stream for the fuzzer: LSN, length, message. A message of no
// bytes stands for a keepalive.
func pack(messages []message) []byte {
	var b []byte
	for i, m := range messages {
		b = binary.BigEndian.AppendUint64(b, uint64(m.at))
		b = binary.BigEndian.AppendUint16(b, uint16(len(m.data)))
		b = append(b, m.data[:uint16(len(m.data))]...)
		if i%3 == 0 {
			b = append(binary.BigEndian.AppendUint64(b, uint64(m.at)), 0, 0)
		}
	}
	return b
}

func unpack(b []byte) func(func(pglogrepl.LSN, []byte) bool) {
	return func(yield func(pglogrepl.LSN, []byte) bool) {
		for len(b) >= 10 {
			at, n := pglogrepl.LSN(binary.BigEndian.Uint64(b)), int(binary.BigEndian.Uint16(b[8:]))
			b = b[10:]
			n = min(n, len(b))
			if !yield(at, b[:n:n]) {
				return
			}
			b = b[n:]
		}
	}
}
