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
}

// Origin holds what all records of one source transaction share, in the form
// in which it is written: the tail of their headers.
type Origin struct {
	OriginFacts
	now  time.Time
	tail [tailLength]kgo.RecordHeader
}

// Places in the tail. The checkpoint is last, because Stamp looks for it
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
	o := &Origin{OriginFacts: f, now: now}
	set := func(place int, name string, value []byte) {
		o.tail[place] = kgo.RecordHeader{Key: name, Value: value[:len(value):len(value)]}
	}
	// One array for all values; what outgrows it moves by itself.
	buf := make([]byte, 0, 128)
	cut := func(grown []byte) []byte {
		value := grown[len(buf):]
		buf = grown
		return value
	}
	set(tailLSN, outbox.HeaderLSN, cut(appendLSN(buf, f.CommitLSN)))
	set(tailSeq, outbox.HeaderSeq, nil)
	set(tailXID, outbox.HeaderXID, cut(strconv.AppendUint(buf, uint64(f.XID), 10)))
	set(tailCommitTS, outbox.HeaderCommitTS, cut(f.CommitTime.UTC().AppendFormat(buf, timeFormat)))
	set(tailSource, outbox.HeaderSource, view(f.Source))
	set(tailTimeline, outbox.HeaderTimeline, cut(strconv.AppendInt(buf, int64(f.Timeline), 10)))
	set(tailOrdinal, outbox.HeaderOrdinal, nil)
	set(tailCheckpoint, outbox.HeaderCheckpoint, nil)
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
