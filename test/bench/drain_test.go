package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

const runs = 5

// rows is the size of the backlog; OUTBOX_BENCH_ROWS makes it smaller, for a
// quick look.
var rows = func() int {
	if n, err := strconv.Atoi(os.Getenv("OUTBOX_BENCH_ROWS")); err == nil {
		return n
	}
	return 1_000_000
}()

// The payload: a jsonb object of seven keys, about 200 bytes in text form.
var fill = []string{
	`CREATE FUNCTION payload(i bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	   SELECT jsonb_build_object('order_id', i, 'customer', 'customer-' || (i * 7919 % 100003), 'status', 'CREATED',
	     'amount_cents', i * 31 % 1000000, 'currency', 'EUR', 'note', md5(i::text) || substr(md5((i + 1)::text), 1, 16), 'at', '2026-01-01T00:00:00Z') $$`,
	`CREATE PROCEDURE fill(n bigint, per bigint) LANGUAGE plpgsql AS $$ DECLARE i bigint := 0; BEGIN
	   WHILE i < n LOOP
	     INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
	       SELECT 'order', 'agg-' || (g % 10000), 'OrderCreated', payload(g) FROM generate_series(i, i + per - 1) g;
	     COMMIT; i := i + per;
	   END LOOP; END $$`,
}

// Draining a backlog of a million rows in transactions of ten.
func TestBenchDrainSmallTransactions(t *testing.T) { drain(t, 10) }

// Draining one transaction of a million rows.
func TestBenchDrainOneTransaction(t *testing.T) { drain(t, rows) }

func servers(t *testing.T) (*harness.PostgresServer, *harness.KafkaServer) {
	t.Helper()
	rig.Real(t)
	pg := harness.NewPostgres(t, harness.PostgresConfig{Fsync: true, Settings: map[string]string{
		"shared_buffers": "512MB", "max_wal_size": "8GB",
	}})
	kafka := harness.NewKafka(t, harness.KafkaConfig{FullJIT: true, Heap: "1g", Properties: map[string]string{"broker.session.timeout.ms": "9000"}})
	return pg, kafka
}

func drain(t *testing.T, perTransaction int) {
	pg, kafka := servers(t)
	// One partition: the harder case, and the one that keeps the total order.
	r := rig.New(t, rig.Config{Postgres: pg, Kafka: kafka, Partitions: 1, Env: map[string]string{"OUTBOX_HEARTBEAT_INTERVAL": "10s"}})
	// Every run has a relay of its own, initialised before the backlog was
	// written, so that each drains the same WAL from the same position.
	relays := make([]*rig.Rig, runs+1)
	for i := range relays {
		relays[i] = r.Sibling(t, fmt.Sprintf("run%d", i))
		relays[i].Init(t)
	}
	base := r.Database.Slot("base")
	r.Database.Exec(t, `SELECT pg_create_logical_replication_slot('`+base+`', 'pgoutput')`)
	r.Database.Exec(t, fill...)
	r.Database.Exec(t, `SET synchronous_commit = off`, fmt.Sprintf(`CALL fill(%d, %d)`, rows, perTransaction), `CHECKPOINT`)
	_, end := relays[0].Confirmed(t.Context(), t)

	var baseline, relay, ratio []float64
	var peak int64
	for i := range relays {
		a := recvlogical(t, r, base, end.String())
		b, rss := serve(t, relays[i])
		if i == 0 {
			continue // warms caches and the broker's compiler
		}
		baseline, relay, ratio = append(baseline, rate(a)), append(relay, rate(b)), append(ratio, a.Seconds()/b.Seconds())
		peak = max(peak, rss)
		t.Logf("run %d: pg_recvlogical %.0f rows/s, relay %.0f rows/s, ratio %.2f, relay peak RSS %d MiB", i, rate(a), rate(b), a.Seconds()/b.Seconds(), rss>>20)
	}
	t.Logf("%d rows in transactions of %d, median of %d: pg_recvlogical %.0f rows/s, relay %.0f rows/s, ratio of medians %.2f, median of ratios %.2f; peak RSS %d MiB",
		rows, perTransaction, runs, median(baseline), median(relay), median(relay)/median(baseline), median(ratio), peak>>20)
}

// recvlogical reads the backlog to its end, into nothing.
func recvlogical(t *testing.T, r *rig.Rig, base, end string) time.Duration {
	t.Helper()
	slot := r.Database.Slot("reader")
	r.Database.Exec(t, `SELECT pg_copy_logical_replication_slot('`+base+`', '`+slot+`')`)
	cmd := exec.CommandContext(t.Context(), tool(t), "-d", r.Database.URL(), "-S", slot, "--start", "-o", "proto_version=1",
		"-o", "publication_names="+r.Publication, "--endpos="+end, "-f", "/dev/null", "--no-loop", "-s", "0", "-F", "0")
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pg_recvlogical: %v\n%s", err, out)
	}
	took := time.Since(start)
	r.Database.Exec(t, `SELECT pg_drop_replication_slot('`+slot+`')`)
	return took
}

func tool(t *testing.T) string {
	t.Helper()
	if p, err := exec.LookPath("pg_recvlogical"); err == nil {
		return p
	}
	all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_recvlogical")
	if len(all) == 0 {
		t.Skip("pg_recvlogical is not installed")
	}
	return slices.Max(all)
}

// serve drains the backlog with the relay, from the start of the process to
// the checkpoint that covers the last row.
func serve(t *testing.T, r *rig.Rig) (took time.Duration, rss int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cl, err := r.Kafka.Client(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.Checkpoint: {0: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	start := time.Now()
	relay := r.Serve(t, nil)
	for done := false; !done; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatal(err)
		}
		for _, rec := range fs.Records() {
			if kind, _ := checkpoint.KindOf(rec.Key); kind != checkpoint.Lane {
				continue
			}
			ck, err := checkpoint.Decode(rec)
			if err != nil {
				t.Fatal(err)
			}
			done = done || ck.RowsTotal >= uint64(rows) && !ck.Pos.Cut()
		}
	}
	took = time.Since(start)
	rss = peakRSS(t, relay.PID())
	if err := relay.Term(); err != nil {
		t.Fatal(err)
	}
	if exit, err := relay.Wait(ctx); err != nil || exit != 0 {
		t.Fatalf("exit %d, %v", exit, err)
	}
	// The next run is not to share the machine with this one's slot. The
	// walsender may be a moment behind the relay in leaving it.
	r.Database.Exec(t, `DO $$ BEGIN
	  WHILE EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '`+r.Slot+`' AND active) LOOP PERFORM pg_sleep(0.05); END LOOP; END $$`,
		`SELECT pg_drop_replication_slot('`+r.Slot+`')`)
	return took, rss
}

// peakRSS is VmHWM, the high-water mark of resident memory, in bytes.
func peakRSS(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

func rate(d time.Duration) float64 { return float64(rows) / d.Seconds() }

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
