package live

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/outbox"
)

// Events is how many of the last events are kept.
const Events = 50

// maxText is how much of a text of a row is kept.
const maxText = 256

type recordPtr = *kgo.Record

// ring holds the last events. Their texts are copied into buffers that are used
// again, so that no row is kept in memory for the sake of its id.
type ring struct {
	slots [Events]slot
	n     uint64 // ever added
}

// The texts of a slot, in the order of its buffer.
const (
	textID = iota
	textType
	textAggregate
	textTopic
	textLSN
	textCommitted
	textReason
	texts
)

type slot struct {
	buf       []byte
	ends      [texts]int
	partition int32
	offset    int64
	published time.Time
}

func (r *ring) add(rec *kgo.Record, at time.Time) {
	s := &r.slots[r.n%Events]
	r.n++
	s.buf, s.partition, s.offset, s.published = s.buf[:0], rec.Partition, rec.Offset, at
	var found [texts][]byte
	for i := range rec.Headers {
		h := &rec.Headers[i]
		switch h.Key {
		case outbox.HeaderID:
			found[textID] = h.Value
		case outbox.HeaderType:
			found[textType] = h.Value
		case outbox.HeaderAggregateType:
			found[textAggregate] = h.Value
		case outbox.HeaderLSN:
			found[textLSN] = h.Value
		case outbox.HeaderCommitTS:
			found[textCommitted] = h.Value
		}
	}
	reason := dlq.ReasonOf(rec)
	for i, text := range found {
		switch i {
		case textTopic:
			s.buf = append(s.buf, rec.Topic[:min(len(rec.Topic), maxText)]...)
		case textReason:
			s.buf = append(s.buf, reason[:min(len(reason), maxText)]...)
		default:
			s.buf = append(s.buf, text[:min(len(text), maxText)]...)
		}
		s.ends[i] = len(s.buf)
	}
}

func (s *slot) text(i int) string {
	from := 0
	if i > 0 {
		from = s.ends[i-1]
	}
	return string(s.buf[from:s.ends[i]])
}

// Event is one of the last events, as it is shown.
type Event struct {
	ID            string `json:"id"`
	Type          string `json:"type"`
	AggregateType string `json:"aggregatetype"`
	Topic         string `json:"topic"`
	Partition     int32  `json:"partition"`
	Offset        int64  `json:"offset"`
	CommitLSN     string `json:"commit_lsn"`
	CommitTime    string `json:"commit_time"`
	PublishedTime string `json:"published_time"`
	// LetterReason is why the row became a dead letter; empty: it is an event.
	LetterReason string `json:"letter_reason,omitempty"`
}

// Recent returns the last events, the newest first.
func (r *Recorder) Recent() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(r.events.n, Events)
	all := make([]Event, 0, n)
	for i := range n {
		s := &r.events.slots[(r.events.n-1-i)%Events]
		all = append(all, Event{
			ID: s.text(textID), Type: s.text(textType), AggregateType: s.text(textAggregate), Topic: s.text(textTopic),
			Partition: s.partition, Offset: s.offset, CommitLSN: s.text(textLSN), CommitTime: s.text(textCommitted),
			PublishedTime: stamp(s.published), LetterReason: s.text(textReason),
		})
	}
	return all
}
