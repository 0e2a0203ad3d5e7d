package pipeline

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/holdwall/outbox-relay/consumer"
)

// line is one event as a child reads it. Its keys are public: they only gain
// members. What is not there has no value.
type line struct {
	Seq           uint64            `json:"seq"`
	ID            string            `json:"id"`
	Type          string            `json:"type"`
	AggregateType string            `json:"aggregate_type"`
	AggregateID   string            `json:"aggregate_id"`
	Key           string            `json:"key,omitempty"`
	KeyBase64     []byte            `json:"key_base64,omitempty"` // a key that is no text
	ContentType   string            `json:"content_type,omitempty"`
	SchemaVersion string            `json:"schema_version,omitempty"`
	Payload       json.RawMessage   `json:"payload,omitempty"`
	PayloadBase64 *string           `json:"payload_base64,omitempty"`
	Tombstone     bool              `json:"tombstone,omitempty"`
	Headers       map[string]string `json:"headers"`
	HeadersBase64 map[string][]byte `json:"headers_base64,omitempty"` // values that are no text
	TraceParent   string            `json:"traceparent,omitempty"`
	TraceState    string            `json:"tracestate,omitempty"`
	Topic         string            `json:"topic"`
	Partition     int32             `json:"partition"`
	Offset        int64             `json:"offset"`
	Attempt       int               `json:"attempt"`
	Timestamp     string            `json:"timestamp,omitempty"`
	CommitTS      string            `json:"commit_ts,omitempty"`
	Position      *linePosition     `json:"position,omitempty"`
	Replayed      bool              `json:"replayed,omitempty"`
}

type linePosition struct {
	Source   string `json:"source"`
	Timeline int32  `json:"timeline"`
	LSN      string `json:"lsn"`
	Ordinal  uint64 `json:"ordinal"`
}

// encodeLine writes an event as one line of JSON, its line break included. A
// JSON payload is a value in it, so that a handler needs no second parser, and
// loses nothing but white space; with raw, or when it is no JSON, the payload
// is base64 of every byte.
func encodeLine(seq uint64, ev consumer.Event, raw bool) ([]byte, error) {
	l := line{
		Seq: seq, ID: ev.Identity(), Type: ev.Type, AggregateType: ev.AggregateType, AggregateID: ev.AggregateID,
		ContentType: ev.ContentType, SchemaVersion: ev.SchemaVersion, Headers: map[string]string{},
		TraceParent: ev.TraceParent, TraceState: ev.TraceState,
		Topic: ev.Topic, Partition: ev.Partition, Offset: ev.Offset, Attempt: ev.Attempt, Replayed: ev.Replayed,
	}
	if utf8.Valid(ev.Key) {
		l.Key = string(ev.Key)
	} else {
		l.KeyBase64 = ev.Key
	}
	switch {
	case ev.Payload == nil:
		l.Payload, l.Tombstone = json.RawMessage("null"), true
	case !raw && isJSON(ev.ContentType) && utf8.Valid(ev.Payload) && json.Valid(ev.Payload):
		l.Payload = ev.Payload
	default:
		text := base64.StdEncoding.EncodeToString(ev.Payload)
		l.PayloadBase64 = &text
	}
	for _, h := range ev.Headers {
		if utf8.Valid(h.Value) {
			l.Headers[h.Key] = string(h.Value)
			continue
		}
		if l.HeadersBase64 == nil {
			l.HeadersBase64 = map[string][]byte{}
		}
		l.HeadersBase64[h.Key] = h.Value
	}
	if !ev.Timestamp.IsZero() {
		l.Timestamp = formatTime(ev.Timestamp)
	}
	if !ev.CommitTime.IsZero() {
		l.CommitTS = formatTime(ev.CommitTime)
	}
	if p := ev.Position; p.Source != "" {
		l.Position = &linePosition{Source: p.Source, Timeline: p.Timeline, LSN: p.LSN.String(), Ordinal: p.Ordinal}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	// Escaping < and > would change the text of the payload.
	enc.SetEscapeHTML(false)
	err := enc.Encode(l)
	return b.Bytes(), err
}

// isJSON tells whether a media type is JSON: application/json, text/json and
// whatever ends with +json.
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	_, sub, _ := strings.Cut(media, "/")
	return sub == "json" || strings.HasSuffix(sub, "+json")
}
