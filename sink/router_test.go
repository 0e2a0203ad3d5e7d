package sink

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

func testOrigin() *Origin {
	return NewOrigin(OriginFacts{
		CommitLSN:  pglogrepl.LSN(0x10A2B3C8),
		Timeline:   3,
		XID:        742,
		CommitTime: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		Source:     "shop/outbox_relay",
	}, time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC))
}

func newRouter(t testing.TB, cfg RouterConfig) *Router {
	t.Helper()
	r, err := NewRouter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func headerLines(r *kgo.Record) []string {
	var lines []string
	for _, h := range r.Headers {
		if h.Value == nil {
			lines = append(lines, h.Key+" is null")
			continue
		}
		lines = append(lines, h.Key+"="+string(h.Value))
	}
	return lines
}

func TestRoute(t *testing.T) {
	five := outbox.Record{ID: "i", AggregateType: "order", AggregateID: "7", Type: "created", Payload: []byte("{}")}
	full := outbox.Record{
		ID: "i", AggregateType: "order", AggregateID: "", Type: "", Payload: []byte{}, Topic: "elsewhere", Key: "k", Partition: outbox.PartitionOf(2),
		Headers: []outbox.Header{{Key: "b", Value: []byte("1")}, {Key: "a", Value: nil}}, ContentType: "text/csv", SchemaVersion: "4", TraceParent: "tp", TraceState: "ts",
		CreatedAt: time.Date(2026, 1, 2, 4, 4, 6, 700, time.FixedZone("", 3600)),
	}
	ahead := five
	ahead.CreatedAt = time.Date(2026, 1, 2, 4, 3, 6, 1000, time.UTC)
	origin := []string{
		"outbox.lsn=0/10A2B3C8", "outbox.seq=2", "outbox.xid=742", "outbox.commit_ts=2026-01-02T03:04:05.000006Z",
		"outbox.source=shop/outbox_relay", "outbox.tli=3", "outbox.ord=5000",
	}
	ckpt := "outbox.ckpt is null"
	plain := []string{"id=i", "type=created", "aggregatetype=order", "aggregateid=7", "content-type=application/json"}
	cat := func(parts ...[]string) (all []string) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for _, tc := range []struct {
		name    string
		cfg     RouterConfig
		rec     outbox.Record
		topic   string
		key     string
		value   []byte
		at      time.Time
		headers []string
	}{
		{
			"five columns",
			RouterConfig{EventsTopic: "outbox.events"},
			five,
			"outbox.events", "7", []byte("{}"), testOrigin().CommitTime, cat(plain, origin, []string{ckpt}),
		},
		{
			"template",
			RouterConfig{EventsTopic: "outbox.events", TopicTemplate: "outbox.event.{aggregatetype}"},
			five,
			"outbox.event.order", "7", []byte("{}"), testOrigin().CommitTime, cat(plain, origin, []string{ckpt}),
		},
		{
			"everything",
			RouterConfig{TopicTemplate: "x-${routedByValue}-{type}"},
			full,
			"elsewhere", "k",
			[]byte{},
			full.CreatedAt,
			cat([]string{"id=i", "type=", "aggregatetype=order", "aggregateid=", "content-type=text/csv", "schema_version=4", "traceparent=tp", "tracestate=ts", "b=1", "a="}, origin, []string{ckpt}),
		},
		{
			"clamped",
			RouterConfig{EventsTopic: "t"},
			ahead,
			"t", "7", []byte("{}"), testOrigin().now,
			cat(plain, origin, []string{"outbox.created_at=2026-01-02T04:03:06.000001Z", ckpt}),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := newRouter(t, tc.cfg).Route(testOrigin(), &tc.rec, 5000, 2)
			if err != nil {
				t.Fatal(err)
			}
			if got.Topic != tc.topic || string(got.Key) != tc.key || got.Key == nil || !bytes.Equal(got.Value, tc.value) || got.Value == nil || !got.Timestamp.Equal(tc.at) {
				t.Errorf("got topic %q key %q value %q at %v", got.Topic, got.Key, got.Value, got.Timestamp)
			}
			if diff := cmp.Diff(tc.headers, headerLines(got)); diff != "" {
				t.Error(diff)
			}
			want, explicit := tc.rec.Partition.Get()
			if n, ok := ExplicitPartition(got); ok != explicit || n != want {
				t.Errorf("asks for partition %d, %v", n, ok)
			}
		})
	}
}

func TestRouteNull(t *testing.T) {
	rec := outbox.Record{ID: "i", AggregateType: "order", AggregateID: "7", Type: "created"}
	r := newRouter(t, RouterConfig{EventsTopic: "t"})
	if got, err := r.Route(testOrigin(), &rec, 1, 1); err != nil || string(got.Value) != "null" || r.Nulls() != 1 {
		t.Errorf("got %q, %v, %d nulls", got.Value, err, r.Nulls())
	}
	r = newRouter(t, RouterConfig{EventsTopic: "t", Tombstones: true})
	if got, err := r.Route(testOrigin(), &rec, 1, 1); err != nil || got.Value != nil || r.Nulls() != 0 {
		t.Errorf("got %q, %v, %d nulls", got.Value, err, r.Nulls())
	}
}

func TestRouteTimestamp(t *testing.T) {
	o := testOrigin()
	for _, tc := range []struct {
		name    string
		created time.Time
		behind  time.Duration
		want    time.Time
		kept    bool // the row's own time is in a header
	}{
		{"at the edge", o.now.Add(maxAhead), 0, o.now.Add(maxAhead), false},
		{"beyond it", o.now.Add(maxAhead + 1), 0, o.now, true},
		{"far beyond", time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), 0, o.now, true},
		{"long ago", time.Unix(0, 0), 0, time.Unix(0, 0), false},
		{"before 1970", time.Unix(-1, 0), 0, o.now, true},
		{"within the bound", o.now.Add(-time.Hour), time.Hour, o.now.Add(-time.Hour), false},
		{"too long ago", o.now.Add(-time.Hour - 1), time.Hour, o.now, true},
		{"none", time.Time{}, 0, o.CommitTime, false},
	} {
		rec := outbox.Record{ID: "i", CreatedAt: tc.created}
		got, err := newRouter(t, RouterConfig{EventsTopic: "t", MaxBehind: tc.behind}).Route(o, &rec, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		kept := strings.Contains(strings.Join(headerLines(got), "\n"), outbox.HeaderCreatedAt+"=")
		if !got.Timestamp.Equal(tc.want) || kept != tc.kept {
			t.Errorf("%s: got %v, header %v", tc.name, got.Timestamp, kept)
		}
	}
}

func TestRouteRejects(t *testing.T) {
	base := RouterConfig{
		TopicTemplate: "out.{aggregatetype}",
		DeniedTopics:  []string{"ckpt", "out.dlq"},
		MaxHeaders:    2, MaxHeaderBytes: 20,
		Limit: func(topic string) int {
			return map[string]int{"small": 700}[topic]
		},
		Partitions: func(topic string) int {
			return map[string]int{"small": 3}[topic]
		},
	}
	for _, tc := range []struct {
		name  string
		spoil func(*outbox.Record)
		code  *fault.Code // nil: not refused
		topic string
	}{
		{"good", func(*outbox.Record) {}, nil, "out.order"},
		{"illegal topic", func(r *outbox.Record) { r.Topic = "a b" }, fault.RowTopic, "a b"},
		{"dots", func(r *outbox.Record) { r.Topic = ".." }, fault.RowTopic, ".."},
		{"long topic", func(r *outbox.Record) { r.Topic = strings.Repeat("x", 250) }, fault.RowTopic, strings.Repeat("x", 250)},
		{"topic at the limit", func(r *outbox.Record) { r.Topic = strings.Repeat("x", 249) }, nil, strings.Repeat("x", 249)},
		{"illegal by template", func(r *outbox.Record) { r.AggregateType = "ä" }, fault.RowTopic, "out.ä"},
		{"denied topic", func(r *outbox.Record) { r.Topic = "ckpt" }, fault.RowTopicDenied, "ckpt"},
		{"denied by template", func(r *outbox.Record) { r.AggregateType = "dlq" }, fault.RowTopicDenied, "out.dlq"},
		{"Kafka's own topic", func(r *outbox.Record) { r.Topic = "__consumer_offsets" }, fault.RowTopicDenied, "__consumer_offsets"},
		{"reserved header", func(r *outbox.Record) { r.Headers = []outbox.Header{{Key: "id", Value: []byte("x")}} }, fault.RowHeader, "out.order"},
		{"reserved prefix", func(r *outbox.Record) { r.Headers = []outbox.Header{{Key: "outbox.ckpt", Value: []byte("x")}} }, fault.RowHeader, "out.order"},
		{"nameless header", func(r *outbox.Record) { r.Headers = []outbox.Header{{Key: "", Value: []byte("x")}} }, fault.RowHeader, "out.order"},
		{"many headers", func(r *outbox.Record) { r.Headers = headersNamed("a", "b", "c") }, fault.RowHeader, "out.order"},
		{"large headers", func(r *outbox.Record) { r.Headers = headersNamed(strings.Repeat("x", 21)) }, fault.RowHeader, "out.order"},
		{"too large", func(r *outbox.Record) { r.Topic, r.Payload = "small", make([]byte, 700) }, fault.RowTooLarge, "small"},
		{"no limit known", func(r *outbox.Record) { r.Payload = make([]byte, 2<<20) }, nil, "out.order"},
		{"partition too high", func(r *outbox.Record) { r.Topic, r.Partition = "small", outbox.PartitionOf(3) }, fault.RowPartition, "small"},
		{"partition", func(r *outbox.Record) { r.Topic, r.Partition = "small", outbox.PartitionOf(2) }, nil, "small"},
		{"partitions unknown", func(r *outbox.Record) { r.Partition = outbox.PartitionOf(99) }, nil, "out.order"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRouter(t, base)
			for range 2 { // the second time from what is remembered
				rec := outbox.Record{ID: "i", AggregateType: "order", AggregateID: "7", Type: "created", Payload: []byte("{}")}
				tc.spoil(&rec)
				got, err := r.Route(testOrigin(), &rec, 1, 1)
				if tc.code == nil && err != nil || tc.code != nil && (!fault.Has(err, tc.code) || tc.code.Class != fault.Reject) {
					t.Fatalf("got %v, want %v", err, tc.code)
				}
				// A letter is made of what is returned.
				if got.Topic != tc.topic || string(got.Key) != "7" || !bytes.Equal(got.Value, rec.Payload) {
					t.Errorf("record is %q %q with %d bytes", got.Topic, got.Key, len(got.Value))
				}
				if len(got.Headers) != 5+len(rec.Headers)+tailLength || got.Headers[len(got.Headers)-1].Key != outbox.HeaderCheckpoint {
					t.Errorf("headers are %v", headerLines(got))
				}
				for _, h := range got.Headers[5 : 5+len(rec.Headers)] {
					if outbox.Reserved(h.Key) && !strings.HasPrefix(h.Key, outbox.RejectedPrefix) {
						t.Errorf("a row's header goes out as %q", h.Key)
					}
				}
			}
		})
	}
}

func headersNamed(names ...string) (h []outbox.Header) {
	for _, n := range names {
		h = append(h, outbox.Header{Key: n})
	}
	return h
}

func TestNewRouterErrors(t *testing.T) {
	for _, cfg := range []RouterConfig{
		{},
		{EventsTopic: "a b"},
		{EventsTopic: "ckpt", DeniedTopics: []string{"ckpt"}},
		{TopicTemplate: "a.{aggregateid}"},
		{TopicTemplate: "a.{aggregatetype"},
		{TopicTemplate: "a b {type}"},
		{TopicTemplate: "__{type}"},
		{TopicTemplate: "a}"},
	} {
		if _, err := NewRouter(cfg); !fault.Has(err, fault.ConfigInvalid) {
			t.Errorf("%+v: got %v", cfg, err)
		}
	}
}

// Topics outlive rows, so a topic's name may not be the row's memory; and rows
// must not be able to fill memory with topics.
func TestTopicsAreInterned(t *testing.T) {
	r := newRouter(t, RouterConfig{TopicTemplate: "t.{aggregatetype}.{type}"})
	memory := []byte("abcdefgh")
	rec := outbox.Record{AggregateType: "a", Type: "b"}
	rec.Topic = unsafe.String(&memory[0], 4) // as the decoder makes them
	first, err := r.Route(testOrigin(), &rec, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	copy(memory, "zzzz")
	rec.Topic = "abcd"
	second, err := r.Route(testOrigin(), &rec, 1, 1)
	if err != nil || first.Topic != "abcd" || second.Topic != "abcd" {
		t.Errorf("topics are %q, %q (%v)", first.Topic, second.Topic, err)
	}
	for i := range 3 * maxTopicsKnown {
		rec.Topic, rec.AggregateType = "", fmt.Sprint(i)
		if i%2 == 0 {
			rec.Topic = fmt.Sprint(i)
		}
		if _, err := r.Route(testOrigin(), &rec, 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.topics.known) > maxTopicsKnown || len(r.topics.expanded) > maxTopicsKnown {
		t.Errorf("%d and %d topics are remembered", len(r.topics.known), len(r.topics.expanded))
	}
}

// Records come out of shared blocks: none may change another.
func TestRecordsAreApart(t *testing.T) {
	r := newRouter(t, RouterConfig{EventsTopic: "t"})
	o := testOrigin()
	var recs []*kgo.Record
	for i := range 3000 {
		rec := outbox.Record{ID: fmt.Sprint(i), Payload: []byte("{}"), Headers: headersNamed(strings.Split(strings.Repeat("h", i%5), "")...)}
		got, err := r.Route(o, &rec, uint64(2*i), uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		Stamp(got, []byte("1"))
		Stamp(got, []byte(fmt.Sprint(i))) // after an abort it is stamped again
		got.Headers = append(got.Headers, kgo.RecordHeader{Key: "intruder"})[:len(got.Headers)]
		recs = append(recs, got)
	}
	for i, r := range recs {
		h := r.Headers[5+i%5:]
		if string(r.Headers[0].Value) != fmt.Sprint(i) || string(h[tailSeq].Value) != fmt.Sprint(i) ||
			string(h[tailOrdinal].Value) != fmt.Sprint(2*i) || string(h[tailCheckpoint].Value) != fmt.Sprint(i) || len(h) != tailLength {
			t.Fatalf("record %d is %v", i, headerLines(r))
		}
	}
	if o.tail[tailSeq].Value != nil || o.tail[tailCheckpoint].Value != nil {
		t.Error("a record wrote into its origin")
	}
}

func TestStampRefuses(t *testing.T) {
	defer func() {
		if err, ok := recover().(error); !ok || !errors.Is(err, ErrUnstampable) {
			t.Error("a record without a place for the stamp was stamped")
		}
	}()
	Stamp(&kgo.Record{Headers: []kgo.RecordHeader{{Key: outbox.HeaderLSN}}}, nil)
}

func TestAppendLSN(t *testing.T) {
	for lsn, want := range map[pglogrepl.LSN]string{
		0:                  "0/00000000",
		0x16B3748:          "0/016B3748",
		0x1F_00000000:      "1F/00000000",
		0xFFFFFFFFFFFFFFFF: "FFFFFFFF/FFFFFFFF",
	} {
		got := string(appendLSN(nil, lsn))
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if back, err := pglogrepl.ParseLSN(got); err != nil || back != lsn {
			t.Errorf("%s reads back as %v, %v", got, back, err)
		}
	}
}

func BenchmarkDecodeRoute(b *testing.B) {
	table := []outbox.Column{{Name: "id", TypeOID: 2950}, {Name: "aggregatetype", TypeOID: 1043}, {Name: "aggregateid", TypeOID: 1043}, {Name: "type", TypeOID: 1043}, {Name: "payload", TypeOID: 3802}}
	row := [][]byte{[]byte("0198c0de-0000-7000-8000-000000000001"), []byte("order"), []byte("4711"), []byte("created"), []byte(`{"v": "` + strings.Repeat("x", 190) + `"}`)}
	for _, template := range []string{"", "outbox.event.{aggregatetype}"} {
		b.Run("template="+template, func(b *testing.B) {
			dec, err := outbox.NewDecoder(outbox.DefaultColumns(), table)
			if err != nil {
				b.Fatal(err)
			}
			r := newRouter(b, RouterConfig{EventsTopic: "outbox.events", TopicTemplate: template, Limit: func(string) int { return 1 << 20 }})
			var (
				o   *Origin
				rec outbox.Record
				n   uint64
				now = time.Now()
			)
			facts := testOrigin().OriginFacts
			b.ReportAllocs()
			for b.Loop() {
				if n%10 == 0 { // a transaction of ten rows
					o = NewOrigin(facts, now)
				}
				if err := dec.Decode(row, &rec); err != nil {
					b.Fatal(err)
				}
				if _, err := r.Route(o, &rec, n%10+1, n%10+1); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
	}
}
