package dlq

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

var update = flag.Bool("update", false, "record the golden files anew")

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)

func testLetter() Letter {
	return Letter{
		Key: []byte("4711"), Value: []byte(`{"total":1}`), Topic: "out.orders", Partition: outbox.PartitionOf(0), Timestamp: testTime.Truncate(time.Millisecond),
		Headers: []kgo.RecordHeader{
			{Key: "id", Value: []byte("0198c0de")},
			{Key: "type", Value: []byte("created")},
			{Key: "aggregatetype", Value: []byte("order")},
			{Key: "aggregateid", Value: []byte("4711")},
			{Key: "content-type", Value: []byte("application/json")},
			{Key: "tenant", Value: []byte("acme")},
			{Key: outbox.RejectedPrefix + "outbox.dlq.reason", Value: []byte("mine")},
			{Key: "empty", Value: []byte{}},
			{Key: "outbox.lsn", Value: []byte("0/016B3748")},
			{Key: "outbox.seq", Value: []byte("1")},
		},
		Reason: ReservedHeader, Stage: HeaderConverter, Component: "sink", Code: "OBX-2005", Message: `header name "outbox.dlq.reason" is reserved`,
		Attempts: 2, FirstAt: testTime.Add(-time.Minute), At: testTime, Relay: "shop", Lane: 0, RelayVersion: "v1.0.0",
	}
}

// consumerLetter is one of a group that could not handle a replay.
func consumerLetter() Letter {
	l := testLetter()
	l.Reason, l.Stage, l.Component, l.Code, l.Message = Handler, TaskPut, "consumer", "OBX-2200", "the handler gave up"
	l.Group, l.HasSource, l.SourcePartition, l.SourceOffset = "billing", true, 3, 1<<40
	l.Attempts, l.NextAt, l.Backoff = 3, testTime.Add(4*time.Minute), 4*time.Minute
	return l
}

func TestRoundTrip(t *testing.T) {
	plain := testLetter()
	tombstone := testLetter()
	tombstone.Value, tombstone.Partition, tombstone.Checkpoint = nil, 0, []byte("12")
	poor := testLetter()
	poor.Headers, poor.Key, poor.Value, poor.Topic, poor.Message = nil, []byte{}, []byte{}, "", ""
	omitted := testLetter()
	omitted.Value, omitted.Key = nil, nil
	omitted.Omitted = Omitted{Payload: true, PayloadSHA256: "ab", PayloadBytes: 7, Key: true, KeySHA256: "cd", UserHeaders: 3, CutHeaders: 1}
	ofConsumer := consumerLetter()
	first := consumerLetter() // the first record of the first partition
	first.SourcePartition, first.SourceOffset, first.NextAt, first.Backoff = 0, 0, time.Time{}, 0
	for name, l := range map[string]Letter{
		"plain": plain, "tombstone": tombstone, "poor": poor, "omitted": omitted, "of a consumer": ofConsumer, "of the first record": first,
	} {
		t.Run(name, func(t *testing.T) {
			r := l.Record("t.dlq", 0)
			if last := r.Headers[len(r.Headers)-1]; last.Key != outbox.HeaderCheckpoint || !bytes.Equal(last.Value, l.Checkpoint) {
				t.Errorf("the last header is %v", last)
			}
			got, err := Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(l, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGolden(t *testing.T) {
	large := testLetter()
	large.Value = bytes.Repeat([]byte("x"), 5000)
	consumer := consumerLetter()
	again, err := consumer.Replay(testTime)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*kgo.Record{
		"letter":          testLetter().Record("outbox.events.dlq", 0),
		"payload_omitted": large.Record("outbox.events.dlq", 4000),
		"consumer":        consumer.Record("outbox.events.dlq", 0),
		"replay":          again,
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			fmt.Fprintf(&b, "topic %s\ntimestamp %s\nkey %q\nvalue %q\nvalue is null %v\n", r.Topic, r.Timestamp.Format(time.RFC3339Nano), r.Key, r.Value, r.Value == nil)
			for _, h := range r.Headers {
				fmt.Fprintf(&b, "header %s %q\n", h.Key, h.Value)
			}
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("the form of a letter is public; if it may change, record it with -update\n%s", diff)
			}
		})
	}
}

func TestFits(t *testing.T) {
	const limit = 64 << 10
	big := bytes.Repeat([]byte("ü"), limit)
	for name, tc := range map[string]struct {
		spoil         func(*Letter)
		want          Omitted // without hashes and sizes
		keepsOwnValue bool
	}{
		"small":              {func(*Letter) {}, Omitted{}, true},
		"large payload":      {func(l *Letter) { l.Value = big }, Omitted{Payload: true}, false},
		"large user header":  {func(l *Letter) { l.Headers[5].Value = big }, Omitted{UserHeaders: 3}, true},
		"many user headers":  {func(l *Letter) { l.Headers = append(many(5000), l.Headers...) }, Omitted{UserHeaders: 5003}, true},
		"large header name":  {func(l *Letter) { l.Headers[5].Key = string(big) }, Omitted{UserHeaders: 3}, true},
		"payload and header": {func(l *Letter) { l.Value, l.Headers[5].Value = big, big }, Omitted{Payload: true, UserHeaders: 3}, false},
		"large key":          {func(l *Letter) { l.Key = big }, Omitted{Payload: true, UserHeaders: 3, Key: true}, false},
		"large id":           {func(l *Letter) { l.Headers[0].Value = big }, Omitted{Payload: true, UserHeaders: 3, Key: true, CutHeaders: 1}, false},
		"large topic":        {func(l *Letter) { l.Topic, l.Message = string(big), string(big) }, Omitted{}, true},
		"everything": {func(l *Letter) {
			l.Value, l.Key, l.Topic = big, big, string(big)
			for i := range l.Headers {
				l.Headers[i].Value = big
			}
		}, Omitted{Payload: true, UserHeaders: 3, Key: true, CutHeaders: 7}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := testLetter()
			tc.spoil(&l)
			value := l.Value
			r := l.Record("t.dlq", limit)
			if n := sizeAtMost(r); n > limit {
				t.Errorf("%d bytes do not fit", n)
			}
			if name == "everything" && sizeAtMost(r) > 16<<10 {
				t.Errorf("the least letter has %d bytes", sizeAtMost(r))
			}
			got, err := Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			o := got.Omitted
			if o.Payload && (o.PayloadSHA256 != hash(value) || o.PayloadBytes != len(value)) {
				t.Errorf("payload is told as %s, %d bytes", o.PayloadSHA256, o.PayloadBytes)
			}
			if o.Key && o.KeySHA256 != hash(l.Key) {
				t.Errorf("key is told as %s", o.KeySHA256)
			}
			o.PayloadSHA256, o.PayloadBytes, o.KeySHA256 = "", 0, ""
			if diff := cmp.Diff(tc.want, o); diff != "" {
				t.Error(diff)
			}
			if tc.keepsOwnValue != bytes.Equal(got.Value, value) {
				t.Errorf("value has %d bytes", len(got.Value))
			}
			if got.ID() == "" || got.Reason != l.Reason {
				t.Error("id or reason is lost")
			}
		})
	}
}

func many(n int) (h []kgo.RecordHeader) {
	for i := range n {
		h = append(h, kgo.RecordHeader{Key: fmt.Sprintf("user-header-%d", i), Value: []byte("v")})
	}
	return h
}

func TestNew(t *testing.T) {
	rec := &kgo.Record{Topic: "a b", Key: []byte("k"), Value: []byte("v"), Timestamp: testTime, Headers: []kgo.RecordHeader{{Key: "id", Value: []byte("i")}, {Key: outbox.HeaderCheckpoint}}}
	for _, tc := range []struct {
		cause  error
		reason Reason
		stage  Stage
		code   string
	}{
		{fault.New(fault.RowDecode, "x"), Decode, ValueConverter, "OBX-2001"},
		{fault.New(fault.RowTooLarge, "x"), TooLarge, KafkaProduce, "OBX-2002"},
		{fault.New(fault.RowTopic, "x"), InvalidTopic, Transformation, "OBX-2003"},
		{fault.New(fault.RowTopicDenied, "x"), UnauthorizedTopic, Transformation, "OBX-2004"},
		{fault.New(fault.RowHeader, "x"), ReservedHeader, HeaderConverter, "OBX-2005"},
		{fault.New(fault.RowPartition, "x"), PartitionRange, Transformation, "OBX-2006"},
		{fmt.Errorf("produce: %w", fault.New(fault.RowRefused, "x")), Refused, KafkaProduce, "OBX-2007"},
		{&outbox.RowError{Reason: outbox.ReasonDecode, Column: "id", Detail: "x"}, Decode, ValueConverter, "OBX-2001"},
		{&outbox.RowError{Reason: outbox.ReasonPartitionRange, Column: "id", Detail: "x"}, PartitionRange, Transformation, "OBX-2006"},
	} {
		l := New(rec, tc.cause, testTime.Add(1))
		if l.Reason != tc.reason || l.Stage != tc.stage || l.Code != tc.code || !strings.HasSuffix(l.Message, "x") {
			t.Errorf("%v: got %s %s %s %q", tc.cause, l.Reason, l.Stage, l.Code, l.Message)
		}
		if l.Topic != "a b" || string(l.Key) != "k" || string(l.Value) != "v" || l.ID() != "i" || len(l.Headers) != 1 || l.Attempts != 1 || l.At != testTime || l.FirstAt != testTime {
			t.Errorf("%+v", l)
		}
	}
}

// What a replay carries is counted on, and is not the next letter's own.
func TestLetterOfAReplay(t *testing.T) {
	was := consumerLetter()
	rec, err := was.Replay(testTime)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(rec.Headers) - len(was.Headers); n != 4 {
		t.Errorf("a replay has %d headers more", n)
	}
	l := Of(rec, testTime)
	if l.Attempts != 4 || l.Group != "" || len(l.Headers) != len(was.Headers) {
		t.Errorf("%+v", l)
	}
	back, err := Parse(l.Record("t", 0))
	if err != nil || back.Attempts != 4 {
		t.Errorf("%d attempts, %v", back.Attempts, err)
	}
	// A consumer may be given any record, also one of a topic of letters.
	nested := Of(l.Record("t", 0), testTime)
	if nested.Attempts != 5 || len(nested.Headers) != len(was.Headers) {
		t.Errorf("%+v", nested)
	}
	for _, bad := range []string{"", "x", "-1", "0", "2147483647"} {
		rec := &kgo.Record{Headers: []kgo.RecordHeader{{Key: outbox.HeaderAttempts, Value: []byte(bad)}}}
		if l := Of(rec, testTime); l.Attempts != 1 {
			t.Errorf("%q: %d attempts", bad, l.Attempts)
		}
	}
}

func TestReplayNeedsTheWhole(t *testing.T) {
	for _, o := range []Omitted{{Payload: true}, {Key: true}, {UserHeaders: 1}, {CutHeaders: 1}} {
		l := testLetter()
		l.Omitted = o
		whole := (*OmittedError)(nil)
		if _, err := l.Replay(testTime); !errors.As(err, &whole) || whole.Omitted != o || whole.ID != "0198c0de" {
			t.Errorf("%+v: got %v", o, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, name := range []string{headerErrTask, headerAttempts, headerFirstAt, headerAt, headerPayloadBytes, headerPartition, headerUserOmitted, headerErrOffset, headerNextAt, headerBackoff} {
		for _, value := range []string{"", "x", "-1", "4294967296"} {
			r := testLetter().Record("t", 0)
			if name == headerErrOffset && (value == "" || value == "4294967296") {
				continue
			}
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
			if _, err := Parse(r); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s=%q: got %v", name, value, err)
			}
		}
	}
	if _, err := Parse(&kgo.Record{Value: []byte("x")}); err == nil {
		t.Error("a record that is no letter was read as one")
	}
}

func TestTopics(t *testing.T) {
	for _, tc := range []struct {
		events int
		want   string
	}{{1 << 20, "8388608"}, {4 << 20, "16777216"}, {60 << 20, "67108864"}, {100 << 20, "104857600"}} {
		got := Topics(DefaultTopic("e"), tc.events)
		if len(got) != 2 || got[0].Name != "e.dlq" || got[1].Name != "e.dlq.state" ||
			got[0].Configs["max.message.bytes"] != tc.want || got[0].Configs["retention.ms"] != "-1" || got[1].Configs["cleanup.policy"] != "compact" || got[1].Configs["segment.bytes"] == "" {
			t.Errorf("%d: got %+v", tc.events, got)
		}
	}
}

// A letter whose time is refused takes that of its sending, and keeps its own.
func TestUndate(t *testing.T) {
	at := time.Date(2020, 1, 2, 3, 4, 5, 678000, time.UTC)
	for _, tc := range []struct {
		name, header, value string
		want                string
	}{
		{"created", outbox.HeaderCommitTS, "2020-01-02T03:05:05.000000Z", "2020-01-02T03:04:05.000678Z"},
		{"of the commit", outbox.HeaderCommitTS, "2020-01-02T03:04:05.000678Z", ""},
		{"clamped before", outbox.HeaderCreatedAt, "2019-01-01T00:00:00.000000Z", "2019-01-01T00:00:00.000000Z"},
	} {
		l := New(&kgo.Record{Topic: "events", Timestamp: at, Headers: []kgo.RecordHeader{
			{Key: outbox.HeaderID, Value: []byte("1")}, {Key: tc.header, Value: []byte(tc.value)},
		}}, fault.New(fault.RowRefused, "x"), at)
		r := l.Record("dlq", 0)
		Undate(r)
		if last := r.Headers[len(r.Headers)-1].Key; !r.Timestamp.IsZero() || last != outbox.HeaderCheckpoint {
			t.Errorf("%s: time %v, last header %s", tc.name, r.Timestamp, last)
		}
		again, err := Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := again.Header(outbox.HeaderCreatedAt); got != tc.want {
			t.Errorf("%s: created_at is %q", tc.name, got)
		}
	}
}
