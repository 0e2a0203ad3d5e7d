package consumer

import (
	"encoding/binary"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// headersOf cuts a text into headers: a byte chooses a name, a byte the length
// of the value.
func headersOf(b []byte) []kgo.RecordHeader {
	names := []string{
		outbox.HeaderID, outbox.HeaderType, outbox.HeaderLSN, outbox.HeaderTimeline, outbox.HeaderOrdinal, outbox.HeaderCommitTS,
		outbox.HeaderSource, outbox.HeaderReplayed, outbox.HeaderGroup, outbox.HeaderAttempts, outbox.HeaderCheckpoint,
		HeaderOrigin, HeaderNotBefore, HeaderFailed, HeaderFirstAt, "tenant", "", "outbox.unknown", "__connect.errors.topic",
	}
	var out []kgo.RecordHeader
	for len(b) >= 2 {
		name, n := names[int(b[0])%len(names)], int(b[1])
		b = b[2:]
		n = min(n, len(b))
		out = append(out, kgo.RecordHeader{Key: name, Value: b[:n:n]})
		b = b[n:]
	}
	return out
}

// Whatever the headers hold, an event comes out, its own headers are those of
// the writer, and one parser reads as a fresh one does.
func FuzzParse(f *testing.F) {
	add := func(pairs ...string) {
		var b []byte
		for i := 0; i < len(pairs); i += 2 {
			b = append(b, pairs[i][0], byte(len(pairs[i+1])))
			b = append(b, pairs[i+1]...)
		}
		f.Add(b, uint8(3))
	}
	add("\x00", "id-1", "\x02", "0/1A2B3C", "\x03", "1", "\x04", "7", "\x05", "2026-01-01T00:00:00.000001Z", "\x06", "shop/relay", "\x0f", "blue")
	add("\x02", "0/1A2B3C", "\x02", "FFFFFFFF/FFFFFFFF", "\x02", "1/2/3", "\x0b", "events/3/99", "\x0b", "events/-1/0", "\x0c", "later", "\x0d", "-2")
	f.Add(binary.BigEndian.AppendUint64(nil, 1<<63), uint8(1))
	var old parser
	f.Fuzz(func(t *testing.T, b []byte, repeat uint8) {
		rec := &kgo.Record{Topic: "events", Partition: 2, Offset: 5, Key: []byte("k"), Headers: headersOf(b)}
		own := 0
		for _, h := range rec.Headers {
			if !outbox.Reserved(h.Key) {
				own++
			}
		}
		for range int(repeat)%4 + 1 {
			var a, c Event
			old.parse(rec, &a)
			new(parser).parse(rec, &c)
			if len(a.Headers) != own || a.ID != c.ID || a.Position != c.Position || !a.CommitTime.Equal(c.CommitTime) || a.bad != c.bad || a.Attempt != c.Attempt || a.Topic != c.Topic || a.Offset != c.Offset {
				t.Fatalf("%+v\n%+v\n%d own headers", a, c, own)
			}
			for i, h := range a.Headers {
				if outbox.Reserved(h.Key) || h.Key != c.Headers[i].Key {
					t.Fatalf("header %q", h.Key)
				}
			}
			if a.Attempt < 1 || a.Partition < 0 || a.Offset < 0 || a.Identity() == "" {
				t.Fatalf("%+v", a)
			}
		}
	})
}

// A place is believed where this package or a replay wrote it, and nowhere else.
func TestOriginIsBelievedFromOurs(t *testing.T) {
	h := func(name string) kgo.RecordHeader {
		return kgo.RecordHeader{Key: name, Value: []byte("payments/3/99")}
	}
	for name, c := range map[string]struct {
		topic, retry string
		headers      []kgo.RecordHeader
		want         string
	}{
		"a stranger's":           {"events", "billing.retry", []kgo.RecordHeader{h(HeaderOrigin)}, "events/2/5"},
		"without retry topic":    {"", "", []kgo.RecordHeader{h(HeaderOrigin)}, "/2/5"},
		"another retry topic":    {"mail.retry", "billing.retry", []kgo.RecordHeader{h(HeaderOrigin)}, "mail.retry/2/5"},
		"half a replay":          {"events", "", []kgo.RecordHeader{h(HeaderOrigin), h(outbox.HeaderReplayed)}, "events/2/5"},
		"a replay":               {"events", "", []kgo.RecordHeader{h(HeaderOrigin), h(outbox.HeaderReplayOf), h(outbox.HeaderReplayed)}, "payments/3/99"},
		"of the retry topic":     {"billing.retry", "billing.retry", []kgo.RecordHeader{h(HeaderOrigin)}, "payments/3/99"},
		"unreadable and strange": {"events", "billing.retry", []kgo.RecordHeader{{Key: HeaderOrigin, Value: []byte("x")}}, "events/2/5"},
	} {
		p := parser{retry: c.retry}
		var ev Event
		p.parse(&kgo.Record{Topic: c.topic, Partition: 2, Offset: 5, Headers: c.headers}, &ev)
		if got := place(ev.Topic, ev.Partition, ev.Offset); got != c.want || ev.bad != "" {
			t.Errorf("%s: %s, bad %q", name, got, ev.bad)
		}
		// And not for the next record.
		p.parse(&kgo.Record{Topic: "billing.retry", Partition: 2, Offset: 6}, &ev)
		if ev.Offset != 6 {
			t.Errorf("%s: it stays for the next record", name)
		}
	}
}

func TestParseLSN(t *testing.T) {
	for text, want := range map[string]struct {
		lsn uint64
		ok  bool
	}{
		"0/0": {0, true}, "16/B374D848": {0x16B374D848, true}, "ffffffff/FFFFFFFF": {1<<64 - 1, true},
		"": {}, "/": {}, "0/": {}, "/0": {}, "0": {}, "0/123456789": {}, "0/0x1": {}, "0/-1": {}, "0/1/2": {},
	} {
		var ev Event
		got := new(parser).parseLSN(text, &ev)
		if uint64(got) != want.lsn || (ev.bad == "") != want.ok {
			t.Errorf("%q: %s, bad %q", text, got, ev.bad)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	h := func(name, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: name, Value: []byte(value)} }
	rec := &kgo.Record{Topic: "events", Key: []byte("k"), Value: []byte("v"), Headers: []kgo.RecordHeader{
		h("id", "0198c0de-0000-7000-8000-000000000001"), h("type", "OrderCreated"), h("aggregatetype", "order"), h("aggregateid", "agg-17"),
		h("content-type", "application/json"), h("outbox.lsn", "16/B374D848"), h("outbox.seq", "1"), h("outbox.xid", "7000"),
		h("outbox.commit_ts", "2026-01-01T00:00:00.000001Z"), h("outbox.source", "shop/relay"), h("outbox.tli", "1"), h("outbox.ord", "1"), h("outbox.ckpt", "12345"),
	}}
	var p parser
	var ev Event
	b.ReportAllocs()
	for b.Loop() {
		p.parse(rec, &ev)
	}
}
