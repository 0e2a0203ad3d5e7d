package pipeline

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// Whatever a child writes, it is an answer to an event that is outstanding, or
// it is refused; and what it says of its reasons fits into a header.
func FuzzReply(f *testing.F) {
	for _, s := range []string{
		`{"seq":1,"status":"ok"}`, `{"id":"a","status":"retry","retry_after_seconds":1.5}`, `{"id":"a","seq":2,"status":"fail","error":"x\ny"}`,
		`{"seq":3,"status":"ok"}`, `{"id":"b","status":"ok"}`, `null`, `[]`, `{`, `{"seq":-1}`, `{"seq":1e3,"status":"ok"}`, `{"status":"ok"}`, `{"seq":1,"status":"retry","retry_after_seconds":1e308}`,
		`{"id":"` + "\xff" + `","status":"fail","error":"` + strings.Repeat("ü", 300) + `"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		open := newOrders()
		for i, id := range []string{"a", "a", "b"} {
			open.add(&turn{seq: uint64(i + 1), id: id, taken: id != "b"})
		}
		r, err := parseReply(text)
		if err != nil {
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("%q", err)
			}
			return
		}
		if got, err := open.take(r); err == nil {
			if !got.taken || len(open.bySeq) != 2 || r.Seq != nil && got.seq != *r.Seq || r.ID != nil && got.id != *r.ID {
				t.Errorf("%+v answers %+v", r, got)
			}
		} else if len(open.bySeq) != 3 {
			t.Errorf("%v, and an event is gone", err)
		}
		v := r.verdict(time.Minute)
		if (v == nil) != (r.Status == statusOK) {
			t.Errorf("%+v: %v", r, v)
		}
		if j := judged(v); j.after < 0 || j.after > time.Minute || j.permanent != (r.Status == statusFail) {
			t.Errorf("%+v: %+v", r, j)
		}
		if reason := clean(r.Error); strings.ContainsFunc(reason, unicode.IsControl) || !utf8.ValidString(reason) || len(reason) > maxReason+3 || reason == "" {
			t.Errorf("%q", reason)
		}
	})
}

func TestLine(t *testing.T) {
	t.Parallel()
	ev := event()
	ev.AggregateID, ev.Headers = "o-1", []outbox.Header{{Key: "tenant", Value: []byte("a<b")}, {Key: "raw", Value: []byte("\xff")}}
	ev.Payload = []byte("{\n  \"n\": 12345678901234567890.10,\n  \"s\": \"<&>\u2028\"\n}")
	ev.Timestamp, ev.Replayed = ev.CommitTime, true
	got, err := encodeLine(7, ev, false)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"seq":7,"id":"4b0ee7b4-05a7-4c9a-9f0e-6f6a1d0f2a11","type":"Order Placed","aggregate_type":"order","aggregate_id":"o-1","key":"o-1",` +
		`"content_type":"application/json","schema_version":"3","payload":{"n":12345678901234567890.10,"s":"<&>` + "\u2028" + `"},` +
		`"headers":{"tenant":"a<b"},"headers_base64":{"raw":"/w=="},` +
		`"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","tracestate":"vendor=1",` +
		`"topic":"outbox.events","partition":2,"offset":4711,"attempt":3,"timestamp":"2026-11-23T10:15:00.123456Z","commit_ts":"2026-11-23T10:15:00.123456Z",` +
		`"position":{"source":"shop/outbox_relay","timeline":1,"lsn":"0/16B3748","ordinal":2},"replayed":true}` + "\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A payload is a JSON value where it is one; else every byte of it is there.
func TestPayloadForms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		contentType, payload string
		raw, json            bool
	}{
		{"application/json", `{"a":1}`, false, true},
		{"application/json; charset=utf-8", `[1]`, false, true},
		{"application/cloudevents+json", `null`, false, true},
		{"TEXT/JSON", `"x"`, false, true},
		{"application/json", `{"a":1}`, true, false},
		{"application/json", `{"a":`, false, false},
		{"application/json", ``, false, false},
		{"application/json", "\"\xff\"", false, false},
		{"application/jsonl", `{}`, false, false},
		{"text/plain", `{}`, false, false},
		{"", `{}`, false, false},
	} {
		text, err := encodeLine(1, consumer.Event{ID: "x", ContentType: c.contentType, Payload: []byte(c.payload), Key: []byte("\xfe")}, c.raw)
		if err != nil {
			t.Fatal(err)
		}
		var l struct {
			Payload   json.RawMessage
			Base64    *string `json:"payload_base64"`
			Key       []byte  `json:"key_base64"`
			Tombstone bool
		}
		if err := json.Unmarshal(text, &l); err != nil || strings.Count(string(text), "\n") != 1 {
			t.Fatalf("%v: %s", err, text)
		}
		if c.json != (l.Payload != nil) || c.json && string(l.Payload) != c.payload || c.json == (l.Base64 != nil) || l.Tombstone || string(l.Key) != "\xfe" {
			t.Errorf("%+v: %s", c, text)
		}
		if l.Base64 != nil && *l.Base64 != base64.StdEncoding.EncodeToString([]byte(c.payload)) {
			t.Errorf("%+v: %s", c, text)
		}
	}
	text, err := encodeLine(1, consumer.Event{ID: "x", ContentType: "application/json"}, true)
	if err != nil || !strings.Contains(string(text), `"payload":null,"tombstone":true,`) {
		t.Errorf("tombstone: %s %v", text, err)
	}
}

// An id that is no text is spelled by JSON, and answered in that spelling.
func TestOddIDs(t *testing.T) {
	t.Parallel()
	r := rear(t, "plain", nil)
	for _, id := range []string{"", "a\xff\xfeb", `"\`, "line\nbreak", "<b>"} {
		ev := ask("ok")
		ev.ID = id
		if err := r.Handle(t.Context(), ev); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	if n := r.ends(t, fault.ChildProtocol); n != 0 {
		t.Errorf("%v children were lost", n)
	}
}
