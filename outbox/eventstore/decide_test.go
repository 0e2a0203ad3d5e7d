package eventstore

import (
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

func TestDecide(t *testing.T) {
	at := func(version int64) entry { return entry{"s", version} }
	conflict, duplicate := &VersionConflict{}, &DuplicateEvent{}
	for _, tc := range []struct {
		name     string
		expected ExpectedVersion
		head     int64
		ids      string
		found    map[string]entry
		version  int64
		repeated bool
		err      error
	}{
		{"new", Any, 7, "ab", nil, 0, false, nil},
		{"as expected", Exact(7), 7, "ab", nil, 0, false, nil},
		{"too early", Exact(6), 7, "ab", nil, 0, false, conflict},
		{"too late", Exact(8), 7, "ab", nil, 0, false, conflict},
		{"the same again", Exact(5), 7, "ab", map[string]entry{"a": at(5), "b": at(6)}, 6, true, nil},
		{"one of two", Any, 7, "ab", map[string]entry{"a": at(5)}, 0, false, duplicate},
		{"the other of two", Any, 7, "ab", map[string]entry{"b": at(5)}, 0, false, duplicate},
		{"not one behind the other", Any, 7, "ab", map[string]entry{"a": at(5), "b": at(7)}, 0, false, duplicate},
		{"of another stream", Any, 7, "a", map[string]entry{"a": {"t", 5}}, 0, false, duplicate},
		{"of two streams", Any, 7, "ab", map[string]entry{"a": at(5), "b": {"t", 6}}, 0, false, duplicate},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var events []Event
			for _, id := range tc.ids {
				events = append(events, Event{ID: string(id)})
			}
			version, repeated, err := decide("s", tc.expected, events, tc.head, tc.found)
			if version != tc.version || repeated != tc.repeated || (err == nil) != (tc.err == nil) {
				t.Fatalf("version %d, repeated %v, %v", version, repeated, err)
			}
			if tc.err == conflict && !errors.As(err, &conflict) || tc.err == duplicate && !errors.As(err, &duplicate) {
				t.Errorf("got %T", err)
			}
		})
	}
}

// The window holds the newest ids, whatever stream they are of.
func TestIndexWindow(t *testing.T) {
	x := newIndex(10, 3)
	events := []Event{{}, {}, {}, {}, {}}
	for i := range events {
		if err := (&Event{Type: "x"}).check(0); err != nil {
			t.Fatal(err)
		}
		events[i].Type = "x"
		if err := events[i].check(i); err != nil {
			t.Fatal(err)
		}
		if _, fits := x.add(&Recorded{Event: events[i], Stream: "s", Version: int64(i) + 1}, int64(10*i)); !fits {
			t.Fatalf("event %d does not fit", i)
		}
	}
	want := map[string]entry{events[2].ID: {"s", 3}, events[3].ID: {"s", 4}, events[4].ID: {"s", 5}}
	if diff := cmp.Diff(want, x.find("s", events), cmp.AllowUnexported(entry{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := x.find("t", events); len(got) != 0 {
		t.Errorf("another stream has %v", got)
	}
	if h, ok := x.head("s"); !ok || h != (streamHead{"s", 5, 0, 40}) || x.next != 41 {
		t.Errorf("head %+v, %v, next %d", h, ok, x.next)
	}
	if want, fits := x.add(&Recorded{Stream: "s", Version: 7}, 50); fits || want != 6 {
		t.Errorf("version 7 behind 5 is taken, or %d expected", want)
	}
	if _, fits := x.add(&Recorded{Stream: "u", Version: 2}, 50); fits {
		t.Error("a stream begins with version 2")
	}
}

func FuzzPosition(f *testing.F) {
	for _, s := range []string{"", "d1:1.2", "d1:18446744073709551615.9223372036854775807", "k1:0.5", "k1:-1.0", "d1:01.2", "d1:1.-2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parseDatabasePosition(Position(s)); err == nil && s != "" && p.position() != Position(s) {
			t.Errorf("%q is read as %q", s, p.position())
		}
		if o, err := parseKafkaPosition(Position(s), 2); err == nil && s != "" && o.position() != Position(s) {
			t.Errorf("%q is read as %q", s, o.position())
		}
	})
}

// A record in a shared topic can hold anything.
func FuzzFromRecord(f *testing.F) {
	f.Add("s", "1", "2026-01-02T03:04:05.000006Z", "1.2", []byte("x"))
	f.Add("", "-1", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, stream, version, created, at string, payload []byte) {
		r := &kgo.Record{Key: []byte(stream), Value: payload}
		for _, h := range [][2]string{
			{outbox.HeaderID, "i"},
			{outbox.HeaderType, "t"},
			{outbox.HeaderAggregateID, stream},
			{HeaderVersion, version},
			{outbox.HeaderCreatedAt, created},
			{HeaderPosition, at},
			{"user", "u"},
		} {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
		}
		ev, lack := fromRecord(r)
		if lack == "" && (ev.Version < 1 || ev.Stream == "" || len(ev.Headers) != 1) {
			t.Errorf("taken for an event: %+v", ev)
		}
		if p, ok := placeHeader(r, HeaderPosition); ok && p.String() != at {
			t.Errorf("%q is read as %q", at, p)
		}
	})
}

// What a Kafka store writes it reads back.
func FuzzRecord(f *testing.F) {
	f.Add("order-1", "Placed", []byte("{}"), "application/json", "k", "v")
	f.Fuzz(func(t *testing.T, stream, typ string, payload []byte, media, key, value string) {
		events := []Event{{Type: typ, Payload: payload, ContentType: media, Headers: []outbox.Header{{Key: key, Value: []byte(value)}}}}
		if check(stream, Any, events) != nil {
			return
		}
		got, lack := fromRecord(toRecord("t", 0, stream, 3, &events[0]))
		want := Recorded{Event: events[0], Stream: stream, Version: 3}
		want.ContentType = want.contentType()
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(Recorded{}, "Time")); diff != "" || lack != "" {
			t.Errorf("%s (-want +got):\n%s", lack, diff)
		}
	})
}

// Headers keep their order and their bytes in the log.
func FuzzHeaders(f *testing.F) {
	f.Add("a", "b", "c", "")
	f.Add("<&>", "\u2028", "\"\\", "ü")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		for _, s := range []string{a, b, c, d} {
			if !utf8.ValidString(s) {
				return
			}
		}
		want := []outbox.Header{{Key: a, Value: []byte(b)}, {Key: c, Value: []byte(d)}}
		text, err := headersJSON(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseHeaders(text)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}

func TestParseHeadersRefuses(t *testing.T) {
	for _, bad := range []string{"", "{", "[", "[1]", `{"a"`, `{"a":1}`, `{"a":{}}`, `{"a":null}`, "x"} {
		if got, err := parseHeaders(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}
