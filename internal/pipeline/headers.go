package pipeline

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/outbox"
)

// Headers of a request. They are public: names and forms only gain members.
const (
	headerID            = "Outbox-Id"
	headerType          = "Outbox-Type"
	headerAggregateType = "Outbox-Aggregate-Type"
	headerAggregateID   = "Outbox-Aggregate-Id"
	headerSchemaVersion = "Outbox-Schema-Version"
	headerKey           = "Outbox-Key"
	headerTopic         = "Outbox-Topic"
	headerPartition     = "Outbox-Partition"
	headerOffset        = "Outbox-Offset"
	headerAttempt       = "Outbox-Attempt"
	headerCommitTime    = "Outbox-Commit-Time"
	headerPosition      = "Outbox-Position"
	headerReplayed      = "Outbox-Replayed"
	headerTombstone     = "Outbox-Tombstone"
	headerSignature     = "Outbox-Signature"
	headerUser          = "Outbox-Header-" // and the name of a header of the event
	headerOmitted       = "Outbox-Headers-Omitted"
	headerIdempotency   = "Idempotency-Key"
)

// maxUserHeaders bounds the headers of the event that are passed on. Servers
// refuse requests whose headers are longer than 8 KiB or so, with a 4xx that
// would make a dead letter of an event that is sound.
const maxUserHeaders = 4 << 10

// maxHeaderValue bounds one value for the same reason. Texts of the outbox
// table are shorter.
const maxHeaderValue = 3 << 10

// timeFormat is RFC 3339 with microseconds, the resolution of Postgres.
const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

// describe sets the headers that tell of an event.
func describe(h http.Header, ev consumer.Event) {
	set := func(name, value string) {
		if value != "" {
			h.Set(name, encodeValue(value))
		}
	}
	set(headerID, ev.Identity())
	set(headerIdempotency, ev.Identity())
	set(headerType, ev.Type)
	set(headerAggregateType, ev.AggregateType)
	set(headerAggregateID, ev.AggregateID)
	set(headerSchemaVersion, ev.SchemaVersion)
	set(headerKey, string(ev.Key))
	set(headerTopic, ev.Topic)
	h.Set(headerPartition, strconv.FormatInt(int64(ev.Partition), 10))
	h.Set(headerOffset, strconv.FormatInt(ev.Offset, 10))
	h.Set(headerAttempt, strconv.Itoa(ev.Attempt))
	if !ev.CommitTime.IsZero() {
		h.Set(headerCommitTime, formatTime(ev.CommitTime))
	}
	if ev.Position.Source != "" {
		set(headerPosition, formatPosition(ev.Position))
	}
	if ev.Replayed {
		h.Set(headerReplayed, "true")
	}
	if ev.Payload == nil {
		h.Set(headerTombstone, "true")
	}
	h.Set("Content-Type", contentType(ev.ContentType))
	for name, value := range map[string]string{"Traceparent": ev.TraceParent, "Tracestate": ev.TraceState} {
		// These have a grammar of their own, which percent signs would break.
		if value != "" && plain(value) {
			h.Set(name, value)
		}
	}
	passOn(h, ev.Headers)
}

// passOn sets the event's own headers, as far as HTTP can carry them.
func passOn(h http.Header, headers []outbox.Header) {
	omitted, size := 0, 0
	for _, u := range headers {
		if !token(u.Key) || size+len(u.Value) > maxUserHeaders {
			omitted++
			continue
		}
		value := encodeValue(string(u.Value)) // up to three times as long
		if size += len(headerUser) + len(u.Key) + len(value) + 4; size > maxUserHeaders {
			omitted++
			continue
		}
		h.Add(headerUser+u.Key, value)
	}
	if omitted > 0 {
		h.Set(headerOmitted, strconv.Itoa(omitted))
	}
}

func formatTime(t time.Time) string { return t.UTC().Format(timeFormat) }

func formatPosition(p consumer.Position) string {
	return p.Source + ":" + strconv.FormatInt(int64(p.Timeline), 10) + ":" + p.LSN.String() + ":" + strconv.FormatUint(p.Ordinal, 10)
}

func contentType(s string) string {
	if s == "" || !plain(s) {
		return "application/octet-stream"
	}
	return s
}

// encodeValue percent-encodes whatever a header value cannot carry unharmed,
// and the percent sign: the rule of CloudEvents for HTTP, so that decoders
// exist in every language. An id of letters, digits and hyphens stays as it is.
func encodeValue(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if b.Len() > maxHeaderValue {
			break // cut; the body is what counts
		}
		if c := s[i]; c > ' ' && c < 0x7f && c != '"' && c != '%' {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// plain tells whether a text can be a header value as it is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return len(s) <= maxHeaderValue
}

// token tells whether a text can be the name of a header.
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != "" && len(s) <= 256
}
