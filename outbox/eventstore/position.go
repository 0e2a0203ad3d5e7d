package eventstore

import (
	"strconv"
	"strings"
)

// place is a position in the log of a Database: the transaction and the
// number within the table.
type place struct {
	xid uint64
	seq int64
}

func (p place) less(q place) bool { return p.xid < q.xid || p.xid == q.xid && p.seq < q.seq }

// String is the form in the header PositionHeader and, behind a prefix, in a
// Position.
func (p place) String() string {
	return strconv.FormatUint(p.xid, 10) + "." + strconv.FormatInt(p.seq, 10)
}

func parsePlace(s string) (place, bool) {
	xid, seq, ok := strings.Cut(s, ".")
	if !ok {
		return place{}, false
	}
	var p place
	var errXID, errSeq error
	p.xid, errXID = strconv.ParseUint(xid, 10, 64)
	p.seq, errSeq = strconv.ParseInt(seq, 10, 64)
	// One spelling only: a position is compared as the text it is.
	return p, errXID == nil && errSeq == nil && p.seq >= 0 && p.String() == s
}

// The prefixes tell the positions of the stores apart, so that one given to
// the wrong store is refused and not read as something else.
const (
	databasePrefix = "d1:"
	kafkaPrefix    = "k1:"
)

func (p place) position() Position { return Position(databasePrefix + p.String()) }

func parseDatabasePosition(pos Position) (place, error) {
	if pos == Start {
		return place{}, nil
	}
	text, ours := strings.CutPrefix(string(pos), databasePrefix)
	if p, ok := parsePlace(text); ours && ok {
		return p, nil
	}
	return place{}, &PositionError{pos, "is not one of a Database or Hybrid store"}
}

// offsets is a position in a topic: for each partition the offset of the next
// record to read.
type offsets []int64

func (o offsets) position() Position {
	b := make([]byte, 0, len(kafkaPrefix)+8*len(o))
	b = append(b, kafkaPrefix...)
	for i, n := range o {
		if i > 0 {
			b = append(b, '.')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return Position(b)
}

func parseKafkaPosition(pos Position, partitions int32) (offsets, error) {
	o := make(offsets, partitions)
	if pos == Start {
		return o, nil
	}
	text, ours := strings.CutPrefix(string(pos), kafkaPrefix)
	if !ours {
		return nil, &PositionError{pos, "is not one of a Kafka store"}
	}
	parts := strings.Split(text, ".")
	if len(parts) != len(o) {
		return nil, &PositionError{pos, "is of a topic with " + strconv.Itoa(len(parts)) + " partitions, and this one has " + strconv.Itoa(len(o))}
	}
	for i, part := range parts {
		n, err := strconv.ParseInt(part, 10, 64)
		if err != nil || n < 0 || strconv.FormatInt(n, 10) != part {
			return nil, &PositionError{pos, "holds something that is no offset"}
		}
		o[i] = n
	}
	return o, nil
}
