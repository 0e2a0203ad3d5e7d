package dlq

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// Place is where the row of a record is in the history of its database. It
// names the row for ever: re-decoding the same WAL counts the same.
type Place struct {
	Timeline int32
	LSN      pglogrepl.LSN // of the commit
	Ordinal  uint64
}

// Compare orders places as their rows were committed.
func (p Place) Compare(q Place) int {
	return cmp.Or(cmp.Compare(p.Timeline, q.Timeline), cmp.Compare(p.LSN, q.LSN), cmp.Compare(p.Ordinal, q.Ordinal))
}

// PlaceOf reads the place from the headers of an event, a letter or a replay.
// It is not known of records that no relay wrote.
func PlaceOf(headers []kgo.RecordHeader) (p Place, ok bool) {
	var err error
	found := 0
	for _, h := range headers {
		switch h.Key {
		case outbox.HeaderTimeline:
			var n int64
			n, err = strconv.ParseInt(string(h.Value), 10, 32)
			p.Timeline = int32(n)
		case outbox.HeaderLSN:
			p.LSN, err = pglogrepl.ParseLSN(string(h.Value))
		case outbox.HeaderOrdinal:
			p.Ordinal, err = strconv.ParseUint(string(h.Value), 10, 64)
		default:
			continue
		}
		if err != nil {
			return Place{}, false
		}
		found++
	}
	return p, found == 3
}

// KeyHash names the key of an event or of its letter without showing it: the
// first 96 bits of its SHA-256. A record without a key, or with an empty one,
// has no order to keep, and no name.
func KeyHash(r *kgo.Record) (name string, ok bool) {
	if len(r.Key) > 0 {
		sum := sha256.Sum256(r.Key)
		return base64.RawURLEncoding.EncodeToString(sum[:12]), true
	}
	for _, h := range r.Headers {
		if h.Key == headerKeySHA256 {
			sum, err := hex.DecodeString(string(h.Value))
			if err != nil || len(sum) != sha256.Size {
				return "", false
			}
			return base64.RawURLEncoding.EncodeToString(sum[:12]), true
		}
	}
	return "", false
}
