package replication

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// Kind is the type byte of a pgoutput message.
type Kind byte

// The messages of protocol version 1.
const (
	KindBegin    Kind = 'B'
	KindCommit   Kind = 'C'
	KindOrigin   Kind = 'O'
	KindRelation Kind = 'R'
	KindType     Kind = 'Y'
	KindInsert   Kind = 'I'
	KindUpdate   Kind = 'U'
	KindDelete   Kind = 'D'
	KindTruncate Kind = 'T'
	KindMessage  Kind = 'M'
)

// Column of a relation as Postgres described it.
type Column struct {
	Name    string
	TypeOID uint32
	Key     bool
}

// Relation is the shape of a table at one moment of the history.
type Relation struct {
	ID      uint32
	Schema  string
	Name    string
	Columns []Column
}

// Message is one decoded pgoutput message. Which fields hold depends on Kind.
type Message struct {
	Kind       Kind
	XID        uint32        // Begin
	CommitLSN  pglogrepl.LSN // Begin: final LSN; Commit: start of the commit record
	EndLSN     pglogrepl.LSN // Commit: the byte after the commit record
	CommitTime time.Time     // Begin, Commit
	RelationID uint32        // Relation, Insert, Update, Delete
	Relation   *Relation     // Relation
	// Values of an Insert, one per column, in text form. nil is NULL. They
	// point into the bytes given to Decode, and the slice is reused.
	Values [][]byte
}

// A tuple has at most MaxTupleAttributeNumber columns (access/htup_details.h).
const maxColumns = 1664

// Decode reads one pgoutput message of protocol version 1 into m. It never
// reads outside msg, never panics, and allocates no more than msg's length
// justifies. Bodies of Update, Delete, Truncate, Origin, Type and Message are
// not looked into: those are counted or passed over, not used.
//
// It is our own and not pglogrepl.Parse because that indexes tuples without
// bounds checks and allocates per column; see docs/decisions/0002.
func Decode(msg []byte, m *Message) error {
	if len(msg) == 0 {
		return fmt.Errorf("decode pgoutput: empty message")
	}
	m.Kind = Kind(msg[0])
	r := reader{b: msg[1:]}
	switch m.Kind {
	case KindBegin:
		m.CommitLSN = pglogrepl.LSN(r.uint64())
		m.CommitTime = pgTime(int64(r.uint64()))
		m.XID = r.uint32()
	case KindCommit:
		r.byte() // flags, unused by Postgres
		m.CommitLSN = pglogrepl.LSN(r.uint64())
		m.EndLSN = pglogrepl.LSN(r.uint64())
		m.CommitTime = pgTime(int64(r.uint64()))
	case KindRelation:
		m.Relation = decodeRelation(&r)
		m.RelationID = m.Relation.ID
	case KindInsert:
		m.RelationID = r.uint32()
		if t := r.byte(); t != 'N' && r.err == nil {
			return fmt.Errorf("decode pgoutput insert: tuple of type %q", t)
		}
		if err := decodeTuple(&r, m); err != nil {
			return err
		}
	case KindUpdate, KindDelete:
		m.RelationID = r.uint32()
		return r.err
	case KindTruncate, KindOrigin, KindType, KindMessage:
		return nil
	default:
		return fmt.Errorf("decode pgoutput: unknown message type %q", msg[0])
	}
	if r.err != nil {
		return fmt.Errorf("decode pgoutput %c: %w", m.Kind, r.err)
	}
	if len(r.b) != 0 {
		return fmt.Errorf("decode pgoutput %c: %d bytes left over", m.Kind, len(r.b))
	}
	return nil
}

func decodeRelation(r *reader) *Relation {
	rel := &Relation{ID: r.uint32(), Schema: r.cstring(), Name: r.cstring()}
	r.byte() // replica identity
	n := int(r.uint16())
	if n > maxColumns {
		r.fail("%d columns", n)
		return rel
	}
	for i := 0; i < n && r.err == nil; i++ {
		c := Column{Key: r.byte()&1 != 0, Name: r.cstring(), TypeOID: r.uint32()}
		r.uint32() // type modifier
		rel.Columns = append(rel.Columns, c)
	}
	return rel
}

func decodeTuple(r *reader, m *Message) error {
	n := int(r.uint16())
	if n > maxColumns {
		return fmt.Errorf("decode pgoutput insert: %d columns", n)
	}
	m.Values = m.Values[:0]
	for i := 0; i < n && r.err == nil; i++ {
		switch t := r.byte(); t {
		case 'n':
			m.Values = append(m.Values, nil)
		case 't':
			v := r.take(int(r.uint32()))
			if v == nil {
				v = []byte{} // empty text is not NULL
			}
			m.Values = append(m.Values, v)
		default:
			// 'u' (unchanged TOAST) cannot occur in an insert, 'b' only when
			// binary transfer was asked for, which it is not.
			if r.err == nil {
				return fmt.Errorf("decode pgoutput insert: column %d has form %q", i, t)
			}
		}
	}
	return nil
}

// reader takes big-endian fields off the front of b. After the first failure
// it returns zeros, so that callers check err once.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail("wanted %d bytes, %d left", n, len(r.b))
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if v := r.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (r *reader) cstring() string {
	i := bytes.IndexByte(r.b, 0)
	if i < 0 {
		r.fail("string without end")
		return ""
	}
	s := string(r.b[:i])
	r.b = r.b[i+1:]
	return s
}

// pgEpoch is the zero of Postgres timestamps.
var pgEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// pgTime converts microseconds since 2000-01-01. time.Duration overflows after
// 292 years, hence the two steps.
func pgTime(micros int64) time.Time {
	return time.Unix(pgEpoch.Unix()+micros/1e6, micros%1e6*1000).UTC()
}
