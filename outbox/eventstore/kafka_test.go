package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

// spoiler loses the next request to end a transaction, or its answer.
type spoiler struct{ answer, request atomic.Bool }

func (s *spoiler) wrap(c net.Conn) net.Conn { return &spoiledConn{Conn: c, s: s} }

type spoiledConn struct {
	net.Conn
	s    *spoiler
	deaf atomic.Bool
}

// endTxn is the api key, which follows the length of a frame.
const endTxn = 26

func (c *spoiledConn) Write(b []byte) (int, error) {
	if len(b) > 6 && b[4] == 0 && b[5] == endTxn {
		if c.s.request.CompareAndSwap(true, false) {
			// Longer than the client may try again, as when a wire breaks.
			time.AfterFunc(20*time.Millisecond, func() { c.Close() })
			return len(b), nil
		}
		if c.s.answer.CompareAndSwap(true, false) {
			c.deaf.Store(true)
		}
	}
	return c.Conn.Write(b)
}

func (c *spoiledConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.deaf.Load() { // the broker has answered, so it is done
		time.Sleep(20 * time.Millisecond)
		c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// A commit whose answer is lost happened or did not. The store finds out by
// reading, and the events are there once.
func TestKafkaLostCommit(t *testing.T) {
	b, wire := newBroker(t), &spoiler{}
	l := &line{wrap: wire.wrap}
	s := openKafka(t, b.config(l))
	for i, lose := range []*atomic.Bool{&wire.answer, &wire.request, &wire.answer} {
		lose.Store(true)
		events := []eventstore.Event{one("x"), one("y")}
		version, err := s.Append(within(t), "s", eventstore.Exact(int64(2*i)), events...)
		if err != nil || version != int64(2*i+2) || lose.Load() {
			t.Errorf("commit %d: version %d, %v; nothing was lost: %v", i, version, err, lose.Load())
		}
		if got := load(t, s, "s"); len(got) != 2*i+2 {
			t.Errorf("commit %d: the stream holds %v", i, got)
		}
	}
}

// If Kafka is gone as well, nobody knows, and the error says so. The same
// events again are the way to find out.
func TestKafkaOutcomeUnknown(t *testing.T) {
	b, wire := newBroker(t), &spoiler{}
	l := &line{wrap: wire.wrap}
	s := openKafka(t, b.config(l))
	mustAppend(t, s, "s", "a")
	var armed atomic.Bool
	armed.Store(true)
	b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Observe: true, Count: -1, When: func(kmsg.Request) bool {
		if armed.CompareAndSwap(true, false) {
			l.cut(t) // when the request has arrived
		}
		return false
	}})
	events := []eventstore.Event{one("b")}
	var unknown *eventstore.OutcomeUnknown
	if _, err := s.Append(within(t), "s", eventstore.Exact(1), events...); !errors.As(err, &unknown) || unknown.Stream != "s" {
		t.Fatalf("got %v", err)
	}
	l.mend(t)
	if version, err := s.Append(within(t), "s", eventstore.Exact(1), events...); err != nil || version != 2 {
		t.Errorf("again: version %d, %v", version, err)
	}
	if got := load(t, s, "s"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the stream holds %v", got)
	}
}

// A store that was shut out without knowing it neither appends over the other
// nor refuses with what it remembers.
func TestKafkaStaleLease(t *testing.T) {
	b, l := newBroker(t), new(line)
	first, second := openKafka(t, b.config(l)), openKafka(t, b.config(l))
	mustAppend(t, first, "s", "a")
	mustAppend(t, second, "s", "b")
	var conflict *eventstore.VersionConflict
	if _, err := first.Append(within(t), "s", eventstore.Exact(1), one("x")); !errors.As(err, &conflict) || conflict.Actual != 2 {
		t.Errorf("a stale expectation: %v", err)
	}
	mustAppend(t, second, "s", "c")
	if version, err := first.Append(within(t), "s", eventstore.Exact(3), one("d")); err != nil || version != 4 {
		t.Errorf("what the other appended is expected: version %d, %v", version, err)
	}
	mustAppend(t, second, "s", "e")
	mustAppend(t, first, "s", "f")
	if got := load(t, first, "s"); !slices.Equal(got, []string{"a", "b", "c", "d", "e", "f"}) {
		t.Errorf("the stream holds %v", got)
	}
}

// A holder that dies in the middle leaves an open transaction. The next one
// ends it, and nobody sees what was in it.
func TestKafkaOpenTransaction(t *testing.T) {
	b, l := newBroker(t), new(line)
	s := openKafka(t, b.config(l))
	mustAppend(t, s, "s", "a")
	for p := range int32(partitions) {
		dead := b.client(t, kgo.TransactionalID(fmt.Sprintf("eventstore-%s-%d", topic, p)), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err := dead.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		rec := &kgo.Record{Topic: topic, Partition: p, Key: []byte("s"), Value: []byte("torn")}
		if err := dead.ProduceSync(within(t), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if version, err := s.Append(within(t), "s", eventstore.Exact(1), one("b")); err != nil || version != 2 {
		t.Errorf("version %d, %v", version, err)
	}
	if got := load(t, openKafka(t, b.config(l)), "s"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the stream holds %v", got)
	}
}

// The index is bounded: a stream that it forgot is read again.
func TestKafkaForgetsStreams(t *testing.T) {
	b, l := newBroker(t), new(line)
	cfg := b.config(l)
	cfg.MaxStreams = 2
	s := openKafka(t, cfg)
	const streams = 30
	for round := range int64(3) {
		for i := range streams {
			stream := fmt.Sprintf("s-%d", i)
			if version, err := s.Append(within(t), stream, eventstore.Exact(round), one(fmt.Sprint(round))); err != nil || version != round+1 {
				t.Fatalf("%s: version %d, %v", stream, version, err)
			}
			var conflict *eventstore.VersionConflict
			if _, err := s.Append(within(t), stream, eventstore.Exact(9), one("x")); !errors.As(err, &conflict) || conflict.Actual != round+1 {
				t.Fatalf("%s: %v", stream, err)
			}
		}
	}
	for i := range streams {
		if got := load(t, s, fmt.Sprintf("s-%d", i)); !slices.Equal(got, []string{"0", "1", "2"}) {
			t.Errorf("stream %d holds %v", i, got)
		}
	}
}

// Attempts are bounded, and an append that was fenced every time says so.
func TestKafkaContended(t *testing.T) {
	b, l := newBroker(t), new(line)
	cfg := b.config(l)
	cfg.Attempts = 3
	s := openKafka(t, cfg)
	h := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.ProducerFenced, Count: -1})
	if _, err := s.Append(within(t), "s", eventstore.Any, one("x")); !errors.Is(err, eventstore.ErrContended) {
		t.Errorf("got %v", err)
	}
	h.Remove()
	mustAppend(t, s, "s", "a")
}

// An answer that no attempt can change is returned, and not tried again.
func TestKafkaRefused(t *testing.T) {
	b, l := newBroker(t), new(line)
	s := openKafka(t, b.config(l))
	h := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	var unknown *eventstore.OutcomeUnknown
	if _, err := s.Append(within(t), "s", eventstore.Any, one("x")); !errors.Is(err, kerr.TopicAuthorizationFailed) || errors.As(err, &unknown) {
		t.Errorf("got %v", err)
	}
	h.Remove()
	mustAppend(t, s, "s", "a")
	if got := load(t, s, "s"); !slices.Equal(got, []string{"a"}) {
		t.Errorf("the stream holds %v", got)
	}
}

// A topic that could lose events, or whose streams lie elsewhere, is refused.
func TestKafkaTopics(t *testing.T) {
	b, l := newBroker(t), new(line)
	forever := map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
	for name, change := range map[string]map[string]string{
		"good": nil, "compacted": {"cleanup.policy": "compact"}, "by-age": {"retention.ms": "1000"}, "by-size": {"retention.bytes": "1000"},
	} {
		configs := map[string]string{}
		for _, m := range []map[string]string{forever, change} {
			for k, v := range m {
				configs[k] = v
			}
		}
		if err := b.cluster.CreateTopic(name, 2, configs); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		topic      string
		partitions int32
		ok, log    bool
	}{
		{"good", 2, true, false},
		{"good", 3, false, true},
		{"good", 0, false, false},
		{"", 2, false, false},
		{"compacted", 2, false, true},
		{"by-age", 2, false, true},
		{"by-size", 2, false, true},
		{"missing", 2, false, false},
	} {
		cfg := b.config(l)
		cfg.Topic, cfg.Partitions, cfg.Timeout = tc.topic, tc.partitions, 500*time.Millisecond
		s, err := eventstore.OpenKafka(t.Context(), cfg)
		var bad *eventstore.LogError
		if (err == nil) != tc.ok || errors.As(err, &bad) != tc.log {
			t.Errorf("%q with %d partitions: %v", tc.topic, tc.partitions, err)
		}
		if s != nil {
			s.Close()
			if _, err := s.Append(t.Context(), "s", eventstore.Any, one("x")); err == nil {
				t.Error("a closed store appends")
			}
		}
	}
}

// What nobody but a store may have written stops the store, and is not
// stepped over.
func TestKafkaForeignRecords(t *testing.T) {
	header := func(kv ...string) []kgo.RecordHeader {
		var out []kgo.RecordHeader
		for i := 0; i < len(kv); i += 2 {
			out = append(out, kgo.RecordHeader{Key: kv[i], Value: []byte(kv[i+1])})
		}
		return out
	}
	const id = "0198c0de-0000-7000-8000-000000000001"
	for name, headers := range map[string][]kgo.RecordHeader{
		"nothing of ours":     nil,
		"a version too far":   header("id", id, "type", "x", "aggregateid", "s", "eventstore.version", "3"),
		"a version twice":     header("id", id, "type", "x", "aggregateid", "s", "eventstore.version", "1"),
		"no version at all":   header("id", id, "type", "x", "aggregateid", "s", "eventstore.version", "-"),
		"another partition's": header("id", id, "type", "x", "aggregateid", elsewhere(t, "s"), "eventstore.version", "1"),
	} {
		t.Run(name, func(t *testing.T) {
			b, l := newBroker(t), new(line)
			s := openKafka(t, b.config(l))
			mustAppend(t, s, "s", "a")
			rec := &kgo.Record{Topic: topic, Key: []byte("s"), Value: []byte("x"), Headers: headers}
			if err := b.client(t).ProduceSync(within(t), rec).FirstErr(); err != nil {
				t.Fatal(err)
			}
			var bad *eventstore.LogError
			if _, err := openKafka(t, b.config(l)).Append(within(t), "s", eventstore.Any, one("b")); !errors.As(err, &bad) {
				t.Errorf("append: %v", err)
			}
			for _, err := range s.Load(within(t), "s", 0) {
				if !errors.As(err, &bad) {
					t.Errorf("load: %v", err)
				}
			}
		})
	}
}

func partitionOf(stream string) int {
	return kgo.StickyKeyPartitioner(nil).ForTopic(topic).Partition(&kgo.Record{Key: []byte(stream)}, partitions)
}

// elsewhere returns a stream of another partition.
func elsewhere(t testing.TB, stream string) string {
	t.Helper()
	for i := range 100 {
		if s := fmt.Sprintf("s-%d", i); partitionOf(s) != partitionOf(stream) {
			return s
		}
	}
	t.Fatal("all streams are in one partition")
	return ""
}

// Records that were deleted take versions with them that nobody can know.
func TestKafkaDeletedRecords(t *testing.T) {
	b, l := newBroker(t), new(line)
	s := openKafka(t, b.config(l))
	mustAppend(t, s, "s", "a", "b")
	from := page(t, s, eventstore.Start)[0].Position
	if err := b.cluster.DeleteRecords(topic, int32(partitionOf("s")), 3); err != nil {
		t.Fatal(err)
	}
	var bad *eventstore.LogError
	other := openKafka(t, b.config(l))
	if _, err := other.Append(within(t), "s", eventstore.Any, one("c")); !errors.As(err, &bad) {
		t.Errorf("append: %v", err)
	}
	if _, err := other.ReadAll(within(t), from, 10); !errors.As(err, &bad) {
		t.Errorf("read all: %v", err)
	}
	if err := other.Subscribe(within(t), from, func(context.Context, eventstore.Recorded) error { return nil }); !errors.As(err, &bad) {
		t.Errorf("subscribe: %v", err)
	}
}

// A subscription waits for a broker that is away.
func TestKafkaSubscriptionOutlivesConnections(t *testing.T) {
	b, l := newBroker(t), new(line)
	writer := openKafka(t, b.config(new(line)))
	events := follow(t, openKafka(t, b.config(l)), eventstore.Start)
	for i := range 3 {
		want := fmt.Sprint(i)
		l.cut(t)
		mustAppend(t, writer, "s", want)
		l.mend(t)
		if ev := next(t, events); ev.Type != want {
			t.Fatalf("got %s, want %s", ev.Type, want)
		}
	}
}
