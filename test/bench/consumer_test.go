package bench

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// A no-op handler with high-water dedupe against a bare read_committed poll
// loop of the same client, over the same topic, in alternation. What is timed is
// the way from the first record to the last, so that joining a group does not
// count.
func TestBenchConsumer(t *testing.T) {
	rig.Real(t)
	kafka := harness.NewKafka(t, harness.KafkaConfig{FullJIT: true, Heap: "1g"})
	topics := kafka.NewTopics(t)
	topic := topics.Create(t, "events", 3, nil)
	fillTopic(t, kafka, topic)

	bareLoop(t, kafka, topic) // the broker's caches and the JIT
	for _, workers := range []int{1, 4} {
		var bare, ours, ratio []float64
		for run := range runs {
			b := bareLoop(t, kafka, topic)
			o := consumeAll(t, kafka, topic, fmt.Sprintf("bench-%d-%d", workers, run), workers)
			bare, ours, ratio = append(bare, b), append(ours, o), append(ratio, o/b)
		}
		t.Logf("concurrency %d, %d records: bare %.0f/s, consumer %.0f/s, ratio %.2f (each %.2f)",
			workers, rows, median(bare), median(ours), median(ratio), ratio)
	}
}

// fillTopic writes records as the relay does, in transactions of 1,000.
func fillTopic(t *testing.T, kafka *harness.KafkaServer, topic string) {
	t.Helper()
	cl, err := kafka.Client(kgo.TransactionalID(topic), kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.MaxBufferedRecords(2000))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	h := func(name, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: name, Value: []byte(value)} }
	const per = 1000
	for i := 0; i < rows; i += per {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		lsn := fmt.Sprintf("16/%08X", i)
		commit := time.Date(2026, 1, 1, 0, 0, 0, i*1000, time.UTC).Format("2006-01-02T15:04:05.000000Z07:00")
		for n := i; n < min(i+per, rows); n++ {
			key, ord := "agg-"+strconv.Itoa(n%10000), strconv.Itoa(n-i+1)
			cl.Produce(t.Context(), &kgo.Record{
				Topic: topic, Key: []byte(key),
				Value: fmt.Appendf(nil, `{"order_id": %d, "customer": "customer-%d", "status": "CREATED", "amount_cents": %d, "currency": "EUR", "note": "%032x", "at": "2026-01-01T00:00:00Z"}`, n, n*7919%100003, n*31%1000000, n),
				Headers: []kgo.RecordHeader{
					h(outbox.HeaderID, fmt.Sprintf("0198c0de-0000-7000-8000-%012x", n)), h(outbox.HeaderType, "OrderCreated"),
					h(outbox.HeaderAggregateType, "order"), h(outbox.HeaderAggregateID, key), h(outbox.HeaderContentType, "application/json"),
					h(outbox.HeaderLSN, lsn), h(outbox.HeaderSeq, ord), h(outbox.HeaderXID, strconv.Itoa(7000+i)), h(outbox.HeaderCommitTS, commit),
					h(outbox.HeaderSource, "shop/outbox_relay"), h(outbox.HeaderTimeline, "1"), h(outbox.HeaderOrdinal, ord), h(outbox.HeaderCheckpoint, strconv.Itoa(i)),
				},
			}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		if err := cl.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
}

// bareLoop returns records per second of a poll loop that looks at each record.
func bareLoop(t *testing.T, kafka *harness.KafkaServer, topic string) float64 {
	t.Helper()
	cl, err := kafka.Client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var first time.Time
	n, bytes := 0, 0
	for n < rows {
		fs := cl.PollFetches(t.Context())
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			first = time.Now()
		}
		fs.EachRecord(func(r *kgo.Record) {
			n++
			bytes += len(r.Value)
		})
	}
	return float64(n) / time.Since(first).Seconds()
}

func consumeAll(t *testing.T, kafka *harness.KafkaServer, topic, group string, workers int) float64 {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	var first, last time.Time
	var n, bytes atomic.Int64
	c, err := consumer.New(consumer.Config{
		Group: group, Topics: []string{topic}, Dedupe: consumer.HighWater, Concurrency: workers,
		Client: []kgo.Opt{kgo.SeedBrokers(kafka.Direct()...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())},
		Handler: func(_ context.Context, ev consumer.Event) error {
			bytes.Add(int64(len(ev.Payload)))
			switch n.Add(1) {
			case 1:
				first = time.Now()
			case int64(rows):
				last = time.Now()
				stop()
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if last.IsZero() {
		t.Fatalf("%d records of %d", n.Load(), rows)
	}
	return float64(rows) / last.Sub(first).Seconds()
}
