package eventstore

import (
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// Headers that the stores add to a record in Kafka, whether the store itself
// or the relay wrote it.
const (
	// HeaderVersion is the version of the event in its stream, decimal. The
	// stream is the header aggregateid.
	HeaderVersion = ReservedPrefix + "version"
	// HeaderPosition is the place of the event in the log of a Database.
	HeaderPosition = ReservedPrefix + "position"
	// HeaderPrevious is that of the event before it in its stream, if there is
	// one. A reader knows by it whether it has missed one.
	HeaderPrevious = ReservedPrefix + "previous"
)

// toRecord is the record of a Kafka store. It has the headers that the relay
// writes, in the relay's order, so that one consumer reads both.
func toRecord(topic string, partition int32, stream string, version int64, ev *Event) *kgo.Record {
	r := &kgo.Record{Topic: topic, Partition: partition, Key: []byte(stream), Value: ev.Payload}
	if r.Value == nil {
		r.Value = []byte{} // a record without a value is a tombstone
	}
	add := func(key, value string) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	add(outbox.HeaderID, ev.ID)
	add(outbox.HeaderType, ev.Type)
	add(outbox.HeaderAggregateType, category(stream))
	add(outbox.HeaderAggregateID, stream)
	add(outbox.HeaderContentType, ev.contentType())
	if ev.TraceParent != "" {
		add(outbox.HeaderTraceParent, ev.TraceParent)
	}
	if ev.TraceState != "" {
		add(outbox.HeaderTraceState, ev.TraceState)
	}
	for _, h := range ev.Headers {
		add(h.Key, string(h.Value))
	}
	add(HeaderVersion, strconv.FormatInt(version, 10))
	return r
}

// fromRecord reads a record back. The second result says what it lacks to be
// an event of a store; the relay's topics may hold others, which have no
// version. What a header holds that occurs twice is its last value.
func fromRecord(r *kgo.Record) (Recorded, string) {
	ev := Recorded{Time: r.Timestamp.UTC()}
	ev.Payload = r.Value
	var version, created string
	for _, h := range r.Headers {
		switch h.Key {
		case outbox.HeaderID:
			ev.ID = string(h.Value)
		case outbox.HeaderType:
			ev.Type = string(h.Value)
		case outbox.HeaderAggregateID:
			ev.Stream = string(h.Value)
		case outbox.HeaderContentType:
			ev.ContentType = string(h.Value)
		case outbox.HeaderTraceParent:
			ev.TraceParent = string(h.Value)
		case outbox.HeaderTraceState:
			ev.TraceState = string(h.Value)
		case outbox.HeaderCreatedAt:
			created = string(h.Value)
		case HeaderVersion:
			version = string(h.Value)
		default:
			if !outbox.Reserved(h.Key) && !strings.HasPrefix(h.Key, ReservedPrefix) {
				ev.Headers = append(ev.Headers, outbox.Header{Key: h.Key, Value: h.Value})
			}
		}
	}
	if created != "" { // the relay had to send another timestamp
		if at, err := time.Parse(time.RFC3339Nano, created); err == nil {
			ev.Time = at.UTC()
		}
	}
	n, err := strconv.ParseInt(version, 10, 64)
	switch {
	case version == "":
		return ev, "has no header " + HeaderVersion
	case err != nil || n < 1:
		return ev, "has a header " + HeaderVersion + " that is no version"
	case ev.Stream == "" || ev.ID == "" || ev.Type == "":
		return ev, "lacks an id, a type or a stream"
	}
	ev.Version = n
	return ev, ""
}

// placeHeader reads a header that holds a place.
func placeHeader(r *kgo.Record, key string) (place, bool) {
	for _, h := range r.Headers {
		if h.Key == key {
			return parsePlace(string(h.Value))
		}
	}
	return place{}, false
}

// category is the part of a stream's name before the first dash ("order" of
// "order-4711"), or the whole name if there is none. It becomes the type of
// the aggregate.
func category(stream string) string {
	if head, _, ok := strings.Cut(stream, "-"); ok && head != "" {
		return head
	}
	return stream
}
