package consumer

import (
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// Headers of a record on the retry topic. The origin stays on the letter that
// it may end as, and names it: a letter that was written twice because of a
// crash carries the same group and origin.
const (
	HeaderOrigin    = "outbox.consumer.origin"     // <topic>/<partition>/<offset> of the first delivery
	HeaderNotBefore = "outbox.consumer.not_before" // RFC 3339 with microseconds, UTC
	HeaderFailed    = "outbox.consumer.failed"     // attempts so far, decimal
	HeaderFirstAt   = "outbox.consumer.first_at"   // of the first of them
)

const (
	consumerPrefix = "outbox.consumer."

	timeFormat = "2006-01-02T15:04:05.000000Z07:00"
)

// headerSlab is how many user headers are allocated at a time.
const headerSlab = 256

// parser reads the headers of records. Rows of one transaction share the texts
// of their position and time, so the last of each is remembered. It is for one
// goroutine.
type parser struct {
	retry   string // topic of the group; "" for none
	lsnText []byte // copies: a view would keep the record's batch
	lsn     pglogrepl.LSN
	tsText  []byte
	ts      time.Time
	slab    []outbox.Header
	origin  []byte // header of the record that is being read
}

// view is b as a text, without a copy. Nobody writes to a fetched record.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// parse overwrites ev with what the record says. A header that cannot be read
// is named in ev.bad; the rest is there all the same.
func (p *parser) parse(rec *kgo.Record, ev *Event) {
	*ev = Event{
		Key: rec.Key, Payload: rec.Value, Timestamp: rec.Timestamp,
		Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Attempt: 1,
	}
	from := len(p.slab)
	hasLSN := false
	p.origin = nil
	for i := range rec.Headers {
		h := &rec.Headers[i]
		switch h.Key {
		case outbox.HeaderID:
			ev.ID = view(h.Value)
		case outbox.HeaderType:
			ev.Type = view(h.Value)
		case outbox.HeaderAggregateType:
			ev.AggregateType = view(h.Value)
		case outbox.HeaderAggregateID:
			ev.AggregateID = view(h.Value)
		case outbox.HeaderContentType:
			ev.ContentType = view(h.Value)
		case outbox.HeaderSchemaVersion:
			ev.SchemaVersion = view(h.Value)
		case outbox.HeaderTraceParent:
			ev.TraceParent = view(h.Value)
		case outbox.HeaderTraceState:
			ev.TraceState = view(h.Value)
		case outbox.HeaderSource:
			ev.Position.Source = view(h.Value)
		case outbox.HeaderLSN:
			hasLSN = true
			ev.Position.LSN = p.parseLSN(view(h.Value), ev)
		case outbox.HeaderTimeline:
			ev.Position.Timeline = int32(number(h, 31, ev))
		case outbox.HeaderOrdinal:
			ev.Position.Ordinal = number(h, 64, ev)
		case outbox.HeaderCommitTS:
			ev.CommitTime = p.parseTime(h.Key, view(h.Value), ev)
		case outbox.HeaderSeq, outbox.HeaderXID, outbox.HeaderCheckpoint:
		default:
			if strings.HasPrefix(h.Key, outbox.ReservedPrefix) || strings.HasPrefix(h.Key, outbox.ReservedErrorsPrefix) {
				p.parseReserved(h, ev)
				continue
			}
			if len(p.slab) == cap(p.slab) {
				// What this event has so far moves along; earlier events keep
				// the old slab.
				grown := make([]outbox.Header, 0, headerSlab+len(p.slab)-from)
				p.slab, from = append(grown, p.slab[from:]...), 0
			}
			p.slab = append(p.slab, outbox.Header{Key: h.Key, Value: h.Value})
		}
	}
	if n := len(p.slab); n > from {
		ev.Headers = p.slab[from:n:n]
	}
	// Anybody can write to a topic of events. Only what this package or a replay
	// of its letters put there names another place, or a stranger's header would
	// choose where the letter's replay goes.
	if p.origin != nil && (p.ours(rec) || ev.Replayed && ev.replayOf) {
		p.parseOrigin(ev)
	}
	ev.foreign = ev.ID == "" || !hasLSN
}

// parseReserved reads what only letters' offspring carry.
func (p *parser) parseReserved(h *kgo.RecordHeader, ev *Event) {
	switch h.Key {
	case outbox.HeaderReplayed:
		ev.Replayed, ev.replayedAt = true, view(h.Value)
	case outbox.HeaderReplayOf:
		ev.replayOf = true
	case outbox.HeaderRecovered:
		ev.recovered = true
	case outbox.HeaderGroup:
		ev.group = view(h.Value)
	case HeaderFailed:
		ev.failed = int(number(h, 31, ev))
		ev.Attempt = ev.failed + 1
	case HeaderNotBefore:
		ev.due = p.parseTime(h.Key, view(h.Value), ev)
	case HeaderFirstAt:
		ev.firstAt = p.parseTime(h.Key, view(h.Value), ev)
	case HeaderOrigin:
		p.origin = h.Value
	}
}

// ours tells whether the record stands on the group's retry topic.
func (p *parser) ours(rec *kgo.Record) bool { return p.retry != "" && rec.Topic == p.retry }

func (p *parser) parseOrigin(ev *Event) {
	topic, partition, offset, ok := parsePlace(view(p.origin))
	if !ok {
		ev.fault(HeaderOrigin)
		return
	}
	ev.Topic, ev.Partition, ev.Offset = topic, partition, offset
}

// fault remembers the first header that cannot be read.
func (ev *Event) fault(name string) {
	if ev.bad == "" {
		ev.bad = name
	}
}

// parseLSN reads X/XXXXXXXX: two hexadecimal numbers of up to 32 bits.
func (p *parser) parseLSN(s string, ev *Event) pglogrepl.LSN {
	if s == string(p.lsnText) && s != "" {
		return p.lsn
	}
	high, low, ok := strings.Cut(s, "/")
	h, okH := hex32(high)
	l, okL := hex32(low)
	if !ok || !okH || !okL {
		ev.fault(outbox.HeaderLSN)
		return 0
	}
	p.lsnText, p.lsn = append(p.lsnText[:0], s...), pglogrepl.LSN(uint64(h)<<32|uint64(l))
	return p.lsn
}

func hex32(s string) (uint32, bool) {
	if len(s) == 0 || len(s) > 8 {
		return 0, false
	}
	var n uint32
	for i := range len(s) {
		c := s[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		n = n<<4 | uint32(c)
	}
	return n, true
}

// number reads a decimal without sign of at most the given bits.
func number(h *kgo.RecordHeader, bits int, ev *Event) uint64 {
	n, err := strconv.ParseUint(view(h.Value), 10, bits)
	if err != nil {
		ev.fault(h.Key)
		return 0
	}
	return n
}

func (p *parser) parseTime(name, s string, ev *Event) time.Time {
	if s == string(p.tsText) && s != "" {
		return p.ts
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		ev.fault(name)
		return time.Time{}
	}
	p.tsText, p.ts = append(p.tsText[:0], s...), t.UTC()
	return p.ts
}

// parsePlace reads what place wrote. A topic's name holds no slash.
func parsePlace(s string) (topic string, partition int32, offset int64, ok bool) {
	topic, rest, ok := strings.Cut(s, "/")
	if !ok || topic == "" {
		return "", 0, 0, false
	}
	p, o, ok := strings.Cut(rest, "/")
	if !ok {
		return "", 0, 0, false
	}
	n, err := strconv.ParseInt(p, 10, 32)
	if err != nil || n < 0 {
		return "", 0, 0, false
	}
	offset, err = strconv.ParseInt(o, 10, 64)
	if err != nil || offset < 0 {
		return "", 0, 0, false
	}
	return topic, int32(n), offset, true
}

// notBefore is when a record of the retry topic may be handled; zero is at once.
func notBefore(rec *kgo.Record) time.Time {
	for i := range rec.Headers {
		if rec.Headers[i].Key == HeaderNotBefore {
			t, err := time.Parse(time.RFC3339Nano, view(rec.Headers[i].Value))
			if err != nil {
				return time.Time{} // the worker finds it too, and makes a letter of it
			}
			return t
		}
	}
	return time.Time{}
}
