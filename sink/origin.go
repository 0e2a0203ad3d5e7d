package sink

import (
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// OriginFacts say where a source transaction comes from.
type OriginFacts struct {
	CommitLSN  pglogrepl.LSN
	Timeline   int32
	XID        uint32
	CommitTime time.Time
	Source     string // <database>/<slot>
	// Recovered is when a row was read from the table instead of the stream;
	// zero otherwise. XID and CommitTime are then not known, and not written.
	Recovered time.Time
}

// Origin holds what all records of one source transaction share, in the form
// in which it is written: the tail of their headers.
type Origin struct {
	OriginFacts
	now  time.Time
	tail []kgo.RecordHeader
}

// Places in the tail of a row of the stream. The first two are the same in that
// of a row that was recovered, and so are the last two, which tailLength less
// the place is from the end. The checkpoint is last, because Stamp looks for it
// there; the row's own created_at is put before it where it is needed.
const (
	tailLSN = iota
	tailSeq
	tailXID
	tailCommitTS
	tailSource
	tailTimeline
	tailOrdinal
	tailCheckpoint
	tailLength
)

// timeFormat is RFC 3339 with all six digits of Postgres' microseconds.
const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

// NewOrigin prepares a transaction's headers. now is the time that the
// timestamps of its records are clamped to.
func NewOrigin(f OriginFacts, now time.Time) *Origin {
	o := &Origin{OriginFacts: f, now: now, tail: make([]kgo.RecordHeader, 0, tailLength)}
	add := func(name string, value []byte) {
		o.tail = append(o.tail, kgo.RecordHeader{Key: name, Value: value[:len(value):len(value)]})
	}
	// One array for all values; what outgrows it moves by itself.
	buf := make([]byte, 0, 128)
	cut := func(grown []byte) []byte {
		value := grown[len(buf):]
		buf = grown
		return value
	}
	add(outbox.HeaderLSN, cut(appendLSN(buf, f.CommitLSN)))
	add(outbox.HeaderSeq, nil)
	if f.Recovered.IsZero() {
		add(outbox.HeaderXID, cut(strconv.AppendUint(buf, uint64(f.XID), 10)))
		add(outbox.HeaderCommitTS, cut(f.CommitTime.UTC().AppendFormat(buf, timeFormat)))
	} else {
		add(outbox.HeaderRecovered, cut(f.Recovered.UTC().AppendFormat(buf, timeFormat)))
	}
	add(outbox.HeaderSource, view(f.Source))
	add(outbox.HeaderTimeline, cut(strconv.AppendInt(buf, int64(f.Timeline), 10)))
	add(outbox.HeaderOrdinal, nil)
	add(outbox.HeaderCheckpoint, nil)
	return o
}

const hexDigits = "0123456789ABCDEF"

// appendLSN writes X/XXXXXXXX, which sorts as text within one high half where
// Postgres' own X/X does not. Readers of either form read both.
func appendLSN(dst []byte, lsn pglogrepl.LSN) []byte {
	dst = appendHex(dst, uint32(lsn>>32))
	dst = append(dst, '/')
	for shift := 28; shift >= 0; shift -= 4 {
		dst = append(dst, hexDigits[uint32(lsn)>>shift&0xF])
	}
	return dst
}

func appendHex(dst []byte, n uint32) []byte {
	if n >= 16 {
		dst = appendHex(dst, n>>4)
	}
	return append(dst, hexDigits[n&0xF])
}
