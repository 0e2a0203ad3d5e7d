package sink

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// Defaults of RouterConfig.
const (
	DefaultMaxHeaders     = 100
	DefaultMaxHeaderBytes = 64 << 10
)

// maxAhead is how far a record's timestamp may be in the future: brokers
// refuse one hour, and clocks differ a little.
const maxAhead = 59 * time.Minute

// RouterConfig decides where rows go and what is refused.
type RouterConfig struct {
	EventsTopic    string   // where rows go that say nothing, if there is no template
	TopicTemplate  string   // e.g. outbox.event.{aggregatetype}
	DeniedTopics   []string // besides everything that begins with __
	Tombstones     bool     // a NULL payload is a null value, not the text null
	MaxHeaders     int      // user headers of one row; 0 is the default
	MaxHeaderBytes int      // names and values of them together; 0 is the default

	// MaxBehind bounds how old a record's timestamp may be, for topics whose
	// brokers do; 0 does not.
	MaxBehind time.Duration

	// Limit returns max.message.bytes of a topic, or 0 if it is not known.
	// It has to be the function that the client takes its batch limit from,
	// or a record can pass here and fail there. It is called for every
	// record.
	Limit func(topic string) int

	// Span returns the traceparent of a span between the row and its record, for
	// the row's own, and "" for no such span. nil: none for any row.
	Span func(traceparent string) string

	// Partitions returns how many partitions a topic has, or 0 if that is not
	// known. It is called only for rows that ask for a partition.
	Partitions func(topic string) int
}

// Router turns outbox records into Kafka records. It is for one goroutine,
// except Nulls.
type Router struct {
	cfg    RouterConfig
	topics *topics
	slabs  *slabs
	nulls  atomic.Uint64
}

// NewRouter checks the configuration; the error is a *fault.Error.
func NewRouter(cfg RouterConfig) (*Router, error) {
	t, err := newTopics(cfg.EventsTopic, cfg.TopicTemplate, cfg.DeniedTopics)
	if err != nil {
		return nil, err
	}
	if cfg.MaxHeaders == 0 {
		cfg.MaxHeaders = DefaultMaxHeaders
	}
	if cfg.MaxHeaderBytes == 0 {
		cfg.MaxHeaderBytes = DefaultMaxHeaderBytes
	}
	return &Router{cfg: cfg, topics: t, slabs: newSlabs()}, nil
}

// Nulls counts the rows whose NULL payload went out as the JSON text null.
func (r *Router) Nulls() uint64 { return r.nulls.Load() }

// Route builds the Kafka record of row seq of a transaction, which was change
// ord of what the server sent. Its last header, outbox.ckpt, has no value
// until Stamp. Key, value and headers alias the memory of rec's fields.
//
// The error is a *fault.Error of class Reject: this row can be no event. The
// record is returned all the same, whole but for what was refused, so that a
// dead letter can be made of it: Topic is the one asked for, and a refused
// header has outbox.RejectedPrefix before its name.
func (r *Router) Route(o *Origin, rec *outbox.Record, ord, seq uint64) (*kgo.Record, error) {
	out := r.slabs.record()
	var first error
	out.Topic, first = r.topics.of(rec)

	if rec.Key != "" {
		out.Key = view(rec.Key)
	} else {
		out.Key = view(rec.AggregateID)
	}
	switch {
	case rec.Payload != nil:
		out.Value = rec.Payload
	case !r.cfg.Tombstones:
		out.Value = view("null")
		r.nulls.Add(1)
	}

	var clamped bool
	out.Timestamp, clamped = r.timestamp(o, rec.CreatedAt)
	if err := r.headers(out, o, rec, ord, seq, clamped); err != nil && first == nil {
		first = err
	}
	if n, ok := rec.Partition.Get(); ok {
		if err := r.checkPartition(out.Topic, n); err == nil {
			SetPartition(out, n)
		} else if first == nil {
			first = err
		}
	}
	if r.cfg.Limit != nil {
		if limit := r.cfg.Limit(out.Topic); limit > 0 && first == nil {
			if size := Size(out) + checkpointRoom; size > limit {
				first = fault.New(fault.RowTooLarge, "record of up to %d bytes for topic %q, which takes %d", size, out.Topic, limit)
			}
		}
	}
	return out, first
}

// timestamp returns the record's time, and whether it differs from the row's.
func (r *Router) timestamp(o *Origin, created time.Time) (time.Time, bool) {
	at, given := created, true
	if at.IsZero() {
		at, given = o.CommitTime, false
	}
	if at.Sub(o.now) <= maxAhead && at.Unix() >= 0 && (r.cfg.MaxBehind == 0 || o.now.Sub(at) <= r.cfg.MaxBehind) {
		return at, false
	}
	return o.now, given
}

// headers writes the headers in their public order; see package outbox.
func (r *Router) headers(out *kgo.Record, o *Origin, rec *outbox.Record, ord, seq uint64, clamped bool) error {
	n := 5 + len(rec.Headers) + len(o.tail)
	if rec.SchemaVersion != "" {
		n++
	}
	if rec.TraceParent != "" {
		n++
	}
	if rec.TraceState != "" {
		n++
	}
	traceParent, spanned := r.span(rec)
	if spanned {
		n++
	}
	if clamped {
		n++
	}
	h := r.slabs.header(n)
	out.Headers = h

	h[0] = kgo.RecordHeader{Key: outbox.HeaderID, Value: view(rec.ID)}
	h[1] = kgo.RecordHeader{Key: outbox.HeaderType, Value: view(rec.Type)}
	h[2] = kgo.RecordHeader{Key: outbox.HeaderAggregateType, Value: view(rec.AggregateType)}
	h[3] = kgo.RecordHeader{Key: outbox.HeaderAggregateID, Value: view(rec.AggregateID)}
	contentType := rec.ContentType
	if contentType == "" {
		contentType = outbox.ContentJSON
	}
	h[4] = kgo.RecordHeader{Key: outbox.HeaderContentType, Value: view(contentType)}
	at := 5
	if rec.SchemaVersion != "" {
		h[at] = kgo.RecordHeader{Key: outbox.HeaderSchemaVersion, Value: view(rec.SchemaVersion)}
		at++
	}
	if rec.TraceParent != "" {
		h[at] = kgo.RecordHeader{Key: outbox.HeaderTraceParent, Value: view(traceParent)}
		at++
	}
	if rec.TraceState != "" {
		h[at] = kgo.RecordHeader{Key: outbox.HeaderTraceState, Value: view(rec.TraceState)}
		at++
	}
	if spanned {
		h[at] = kgo.RecordHeader{Key: outbox.HeaderTraceRow, Value: view(rec.TraceParent)}
		at++
	}
	var err error
	if len(rec.Headers) > 0 {
		err = r.userHeaders(h[at:at+len(rec.Headers)], rec.Headers)
		at += len(rec.Headers)
	}

	copy(h[at:], o.tail)
	ordinal := at + len(o.tail) - (tailLength - tailOrdinal)
	h[at+tailSeq].Value = r.slabs.decimal(seq)
	h[ordinal].Value = h[at+tailSeq].Value
	if ord != seq {
		h[ordinal].Value = r.slabs.decimal(ord)
	}
	if clamped {
		h[n-1] = h[n-2] // the checkpoint stays last
		created := rec.CreatedAt.UTC().AppendFormat(make([]byte, 0, len(timeFormat)), timeFormat)
		h[n-2] = kgo.RecordHeader{Key: outbox.HeaderCreatedAt, Value: created}
	}
	return err
}

// span returns the traceparent of the record, and whether it is another than the row's.
func (r *Router) span(rec *outbox.Record) (string, bool) {
	if r.cfg.Span == nil || rec.TraceParent == "" {
		return rec.TraceParent, false
	}
	if own := r.cfg.Span(rec.TraceParent); own != "" {
		return own, true
	}
	return rec.TraceParent, false
}

// userHeaders copies the row's own headers and enforces the rules on them.
func (r *Router) userHeaders(dst []kgo.RecordHeader, headers []outbox.Header) error {
	var err error
	size := 0
	for i, h := range headers {
		size += len(h.Key) + len(h.Value)
		dst[i] = kgo.RecordHeader{Key: h.Key, Value: h.Value}
		if h.Value == nil {
			dst[i].Value = []byte{}
		}
		if h.Key != "" && !outbox.Reserved(h.Key) {
			continue
		}
		dst[i].Key = outbox.RejectedPrefix + h.Key
		if err == nil {
			what := "is reserved"
			if h.Key == "" {
				what = "is empty"
			}
			err = fault.New(fault.RowHeader, "header name %.100q %s", h.Key, what)
		}
	}
	switch {
	case err != nil:
	case len(headers) > r.cfg.MaxHeaders:
		err = fault.New(fault.RowHeader, "%d headers, and %d are allowed", len(headers), r.cfg.MaxHeaders).
			WithFix("set fewer headers")
	case size > r.cfg.MaxHeaderBytes:
		err = fault.New(fault.RowHeader, "headers of %d bytes, and %d are allowed", size, r.cfg.MaxHeaderBytes).
			WithFix("move what is large into the payload")
	}
	return err
}

func (r *Router) checkPartition(topic string, n int32) error {
	if r.cfg.Partitions == nil {
		return nil
	}
	if count := r.cfg.Partitions(topic); count > 0 && int(n) >= count {
		return fault.New(fault.RowPartition, "partition %d of topic %q, which has %d", n, topic, count)
	}
	return nil
}

// ErrUnstampable is a record whose last header is not the checkpoint's: it was
// not built by Route or as a dead letter.
var ErrUnstampable = errors.New("stamp a record that does not end with " + outbox.HeaderCheckpoint)

// Stamp sets the number of the checkpoint that is committed together with the
// record. A record may be stamped again, after an abort.
func Stamp(r *kgo.Record, ckpt []byte) {
	last := len(r.Headers) - 1
	if last < 0 || r.Headers[last].Key != outbox.HeaderCheckpoint {
		panic(ErrUnstampable)
	}
	r.Headers[last].Value = ckpt
}
