package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/outbox"
)

const (
	group  = "billing"
	events = "events"
	dead   = "events.dlq"
	again  = "billing.retry"
)

// world is a broker in the process with the topics of the tests.
type world struct {
	t        *testing.T
	cluster  *kfake.Cluster
	client   *kgo.Client
	registry *prometheus.Registry
}

func newWorld(t *testing.T, partitions int32, opts ...kfake.Opt) *world {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{
		kfake.NumBrokers(1), kfake.SeedTopics(partitions, events), kfake.SeedTopics(1, dead, again, "out"),
		kfake.GroupMinSessionTimeout(100 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w := &world{t: t, cluster: c, registry: prometheus.NewRegistry()}
	w.client, err = kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	return w
}

// config is short of patience, so that the tests are quick.
func (w *world) config() consumer.Config {
	cfg := consumer.Config{
		Group: group, Topics: []string{events},
		Client: []kgo.Opt{
			kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.FetchMaxWait(50 * time.Millisecond),
			kgo.SessionTimeout(5 * time.Second), kgo.HeartbeatInterval(30 * time.Millisecond),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(10 * time.Millisecond),
		},
		DeadLetterTopic: dead,
		Backoff:         func(int) time.Duration { return 5 * time.Millisecond },
		CommitInterval:  20 * time.Millisecond, DrainTimeout: 5 * time.Second,
		Registerer: w.registry,
	}
	if os.Getenv("OUTBOX_TEST_LOG") == "client" {
		cfg.Client = append(cfg.Client, kgo.WithLogger(kgo.BasicLogger(os.Stderr, kgo.LogLevelInfo, nil)))
	}
	if os.Getenv("OUTBOX_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return cfg
}

// produce writes records in order and returns when they are there.
func (w *world) produce(recs ...*kgo.Record) {
	w.t.Helper()
	if err := w.client.ProduceSync(w.t.Context(), recs...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// event is a record as the relay writes it, number n of its source.
func event(partition int32, key string, n int, more ...kgo.RecordHeader) *kgo.Record {
	h := func(name, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: name, Value: []byte(value)} }
	r := &kgo.Record{Topic: events, Partition: partition, Key: []byte(key), Value: []byte(strconv.Itoa(n)), Headers: []kgo.RecordHeader{
		h(outbox.HeaderID, "id-"+strconv.Itoa(n)), h(outbox.HeaderType, "Created"),
		h(outbox.HeaderAggregateType, "order"), h(outbox.HeaderAggregateID, key),
		h(outbox.HeaderContentType, "application/json"), h("tenant", "blue"),
		h(outbox.HeaderLSN, fmt.Sprintf("0/%08X", 0x1000+n)), h(outbox.HeaderSeq, "1"), h(outbox.HeaderXID, "700"),
		h(outbox.HeaderCommitTS, time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC).Format("2006-01-02T15:04:05.000000Z07:00")),
		h(outbox.HeaderSource, "shop/relay"), h(outbox.HeaderTimeline, "1"), h(outbox.HeaderOrdinal, "1"),
		h(outbox.HeaderCheckpoint, "9"),
	}}
	r.Headers = append(r.Headers, more...)
	return r
}

// member is a consumer that runs.
type member struct {
	*consumer.Consumer
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func (w *world) start(cfg consumer.Config) *member {
	w.t.Helper()
	c, err := consumer.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{Consumer: c, t: w.t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		m.err = c.Run(ctx)
	}()
	w.t.Cleanup(func() { m.stop() })
	return m
}

// stop ends the member and returns what Run returned.
func (m *member) stop() error {
	m.cancel()
	return m.wait()
}

func (m *member) wait() error {
	select {
	case <-m.done:
		return m.err
	case <-time.After(20 * time.Second):
		m.t.Error("Run does not end")
		return nil
	}
}

// log is what handlers saw.
type log struct {
	mu      sync.Mutex
	changed chan struct{}
	seen    []consumer.Event
}

func newLog() *log { return &log{changed: make(chan struct{})} }

func (l *log) add(ev consumer.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, ev)
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *log) all() []consumer.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]consumer.Event(nil), l.seen...)
}

// await returns when f is content with what was seen.
func (l *log) await(t *testing.T, what string, f func([]consumer.Event) bool) []consumer.Event {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		seen, changed := append([]consumer.Event(nil), l.seen...), l.changed
		l.mu.Unlock()
		if f(seen) {
			return seen
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("waiting for %s: %d events seen", what, len(seen))
		}
	}
}

func (l *log) count(t *testing.T, n int) []consumer.Event {
	t.Helper()
	return l.await(t, fmt.Sprintf("%d events", n), func(seen []consumer.Event) bool { return len(seen) >= n })
}

func texts(seen []consumer.Event) []string {
	out := make([]string, len(seen))
	for i, ev := range seen {
		out[i] = string(ev.Payload)
	}
	return out
}

// committed returns the group's offset of a partition, -1 for none.
func (w *world) committed(topic string, partition int32) (int64, string) {
	w.t.Helper()
	offsets, err := kadm.NewClient(w.client).FetchOffsets(w.t.Context(), group)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return -1, "" // nobody has joined
	}
	if err != nil {
		w.t.Fatal(err)
	}
	o, ok := offsets.Lookup(topic, partition)
	if !ok {
		return -1, ""
	}
	return o.At, o.Metadata
}

// awaitCommitted returns when the group's offset is at the place. Kafka has no
// way to be told, so it is asked.
func (w *world) awaitCommitted(topic string, partition int32, at int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got, _ := w.committed(topic, partition)
		if got == at {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("committed is %d, want %d", got, at)
		}
	}
}

// read returns the n first committed records of a topic's partition 0.
func (w *world) read(topic string, n int) []*kgo.Record {
	w.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.FetchMaxWait(50*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	var recs []*kgo.Record
	for len(recs) < n {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			w.t.Fatalf("%d records in %s, want %d", len(recs), topic, n)
		}
		recs = append(recs, fs.Records()...)
	}
	return recs
}
