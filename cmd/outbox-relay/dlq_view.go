package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/outbox"
)

// letterView is a letter as the commands show it; its keys are stable.
type letterView struct {
	ID            string     `json:"id"`
	State         string     `json:"state"`
	Time          time.Time  `json:"time"`
	AggregateType string     `json:"aggregate_type"`
	AggregateID   string     `json:"aggregate_id"`
	Type          string     `json:"type"`
	Reason        string     `json:"reason"`
	Stage         string     `json:"stage"`
	Component     string     `json:"component"`
	Code          string     `json:"code"`
	Message       string     `json:"message"`
	Topic         string     `json:"topic"`
	Partition     *int32     `json:"partition,omitempty"`
	Attempts      int        `json:"attempts"`
	FirstTime     time.Time  `json:"first_time"`
	NextRetry     *time.Time `json:"next_retry,omitempty"`
	Group         string     `json:"group,omitempty"`
	Source        *spotView  `json:"source,omitempty"`
	Relay         string     `json:"relay"`
	RelayVersion  string     `json:"relay_version"`
	Letter        spotView   `json:"letter"`
	KeyBytes      int        `json:"key_bytes"`
	PayloadBytes  int        `json:"payload_bytes"`
	Tombstone     bool       `json:"tombstone,omitempty"`
	Omitted       *omitView  `json:"omitted,omitempty"`
}

type spotView struct {
	Topic     string `json:"topic,omitempty"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

type omitView struct {
	Payload       bool   `json:"payload"`
	PayloadSHA256 string `json:"payload_sha256,omitempty"`
	Key           bool   `json:"key"`
	Headers       int    `json:"headers"`
	HeadersCut    int    `json:"headers_cut"`
}

func viewOfLetter(i *dlq.Item) letterView {
	v := letterView{
		ID: i.ID(), State: string(i.State()), Time: i.At,
		AggregateType: i.Header(outbox.HeaderAggregateType), AggregateID: i.Header(outbox.HeaderAggregateID), Type: i.Header(outbox.HeaderType),
		Reason: string(i.Reason), Stage: string(i.Stage), Component: i.Component, Code: i.Code, Message: i.Message,
		Topic: i.Topic, Attempts: max(i.Attempts, i.Status.Attempts), FirstTime: i.FirstAt, Group: i.Group,
		Relay: i.Relay, RelayVersion: i.RelayVersion, Letter: spotView(i.Where), KeyBytes: len(i.Key), PayloadBytes: len(i.Value),
	}
	if n, ok := i.Partition.Get(); ok {
		v.Partition = &n
	}
	if at := i.Status.NextAt; i.Status.Open && !at.IsZero() {
		v.NextRetry = &at
	}
	if i.HasSource {
		v.Source = &spotView{Partition: i.SourcePartition, Offset: i.SourceOffset}
	}
	if o := i.Omitted; o != (dlq.Omitted{}) {
		v.Omitted = &omitView{Payload: o.Payload, PayloadSHA256: o.PayloadSHA256, Key: o.Key, Headers: o.UserHeaders, HeadersCut: o.CutHeaders}
		if o.Payload {
			v.PayloadBytes = o.PayloadBytes
		}
	} else if i.Value == nil {
		v.Tombstone = true
	}
	return v
}

// wholeView is a letter with what it holds.
type wholeView struct {
	letterView
	Headers []headerView `json:"headers"`
	*contentView
	Marks []markView `json:"marks,omitempty"`
}

// headerView is a header; a value that is no text is in base64.
type headerView struct {
	Name        string  `json:"name"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

// contentView is key and payload, in the form that fits: as they are if they
// are text or JSON, else in base64.
type contentView struct {
	Key           *string         `json:"key,omitempty"`
	KeyBase64     []byte          `json:"key_base64,omitempty"`
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 []byte          `json:"payload_base64,omitempty"`
}

// markView is what was done with a letter.
type markView struct {
	Action   string     `json:"action"`
	Time     time.Time  `json:"time"`
	By       string     `json:"by,omitempty"`
	Group    string     `json:"group,omitempty"`
	Attempts int        `json:"attempts"`
	Letter   spotView   `json:"letter"`
	Topic    string     `json:"topic,omitempty"`
	Because  string     `json:"because,omitempty"`
	Code     string     `json:"code,omitempty"`
	Next     *time.Time `json:"next_retry,omitempty"`
}

func viewOfMark(m *dlq.Mark) markView {
	v := markView{
		Action: string(m.Action), Time: m.At, By: m.By, Group: m.Group, Attempts: m.Attempts, Letter: spotView(m.Letter),
		Topic: m.Topic, Because: m.Because, Code: m.Code,
	}
	if !m.NextAt.IsZero() {
		v.Next = &m.NextAt
	}
	return v
}

// viewOfWhole shows a letter with its headers, and if asked with its content.
func viewOfWhole(i *dlq.Item, content bool) wholeView {
	v := wholeView{letterView: viewOfLetter(i), Headers: []headerView{}}
	for _, h := range i.Headers {
		hv := headerView{Name: h.Key}
		if text, ok := asText(h.Value); ok {
			hv.Value = &text
		} else {
			hv.ValueBase64 = h.Value
		}
		v.Headers = append(v.Headers, hv)
	}
	if !content {
		return v
	}
	v.contentView = &contentView{}
	if text, ok := asText(i.Key); ok && i.Key != nil {
		v.Key = &text
	} else {
		v.KeyBase64 = i.Key
	}
	// A payload is shown as JSON only where that loses no byte of it: an export
	// without the line breaks of the original would be another payload.
	var same bytes.Buffer
	if json.Valid(i.Value) && json.Compact(&same, i.Value) == nil && bytes.Equal(same.Bytes(), i.Value) {
		v.Payload = i.Value
	} else {
		v.PayloadBase64 = i.Value
	}
	return v
}

func asText(b []byte) (string, bool) { return string(b), utf8.Valid(b) }

// cell makes text of a letter fit for one cell of a table on a terminal: rows
// hold what they like, control characters among it.
func cell(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if r := []rune(s); len(r) > most {
		s = string(r[:most-1]) + "…"
	}
	return cmp.Or(s, "-")
}

func when(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return at.UTC().Format(time.RFC3339)
}
