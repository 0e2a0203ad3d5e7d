package bench

import (
	"context"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/rig"
)

// One event at a time on an idle relay: from the return of COMMIT to the moment
// a read_committed consumer has the record.
func TestBenchIdleLatency(t *testing.T) {
	pg, kafka := servers(t)
	r := rig.New(t, rig.Config{Postgres: pg, Kafka: kafka, Partitions: 1})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cl, err := r.Kafka.Client(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.Events: {0: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	conn := r.Conn(t)
	h := hdrhistogram.New(1, int64(time.Minute/time.Microsecond), 3)
	const warmup, events = 100, 1000
	for i := range warmup + events {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			return outbox.Append(ctx, tx, outbox.Record{AggregateType: "order", AggregateID: "o-1", Type: "Created", Payload: []byte(`{"n":1}`)})
		})
		if err != nil {
			t.Fatal(err)
		}
		committed := time.Now()
		fs := cl.PollFetches(ctx)
		seen := time.Since(committed)
		if err := fs.Err0(); err != nil || fs.NumRecords() != 1 {
			t.Fatalf("event %d: %d records, %v", i, fs.NumRecords(), err)
		}
		if i >= warmup {
			_ = h.RecordValue(max(1, seen.Microseconds()))
		}
		time.Sleep(5 * time.Millisecond) // idle again
	}
	ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	t.Logf("COMMIT to visible under read_committed, %d events one at a time: p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, max %.1f ms",
		events, ms(50), ms(90), ms(99), float64(h.Max())/1000)
}
