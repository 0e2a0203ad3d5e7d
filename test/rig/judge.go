package rig

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/test/load"
)

// Judge watches a run and gives the verdict. It goes past every proxy and
// takes part in nothing: its slot is never confirmed, its readers have no
// group.
type Judge struct {
	// Redirects are topics that letters were replayed to instead of their own.
	Redirects []string

	rig     *Rig
	oracle  verify.OracleSource
	sampler *verify.Sampler
	watch   *verify.Watch
	stop    context.CancelFunc
	done    sync.WaitGroup
	errs    [2]error
}

// Judge begins to watch. The relay has to be initialised, and nothing may have
// been written yet.
func (r *Rig) Judge(t testing.TB) *Judge {
	t.Helper()
	j := &Judge{rig: r, oracle: verify.OracleSource{Slot: r.Database.Slot("oracle"), Publication: r.Publication}}
	conn := r.Conn(t)
	if err := verify.CreateOracle(t.Context(), conn, j.oracle.Slot); err != nil {
		t.Fatal(err)
	}
	if err := load.Prepare(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	j.sampler = &verify.Sampler{
		DatabaseURL: r.Database.URL(), Slot: r.Slot, Kafka: j.kafka(), Topic: r.Checkpoint, Name: r.Name,
		Interval: 50 * time.Millisecond,
	}
	j.watch = &verify.Watch{Kafka: j.kafka(), Topics: []string{r.Events, r.Letters}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	j.stop = cancel
	for i, run := range []func(context.Context) error{j.sampler.Run, j.watch.Run} {
		j.done.Add(1)
		go func() {
			defer j.done.Done()
			j.errs[i] = run(ctx)
		}()
	}
	t.Cleanup(j.end)
	return j
}

// Drain takes the history so far out of the judge's slot, so that the server need
// not keep the WAL of it: where slots are lost, this one is not to be.
func (j *Judge) Drain(t testing.TB) {
	t.Helper()
	conn := j.rig.Conn(t)
	var behind bool
	for range 20 {
		// The slot forgets what lies before the second of two snapshots of running
		// transactions, which a checkpoint writes.
		j.rig.Database.Exec(t, "CHECKPOINT")
		drained, err := verify.DrainOracle(t.Context(), conn, j.oracle)
		if err != nil {
			t.Fatal(err)
		}
		j.oracle.Earlier = &drained
		err = conn.QueryRow(t.Context(), `SELECT pg_current_wal_lsn() - restart_lsn > 1 << 20 FROM pg_replication_slots WHERE slot_name = $1`, j.oracle.Slot).Scan(&behind)
		if err != nil {
			t.Fatal(err)
		}
		if !behind {
			return
		}
	}
	t.Fatalf("slot %s does not move on", j.oracle.Slot)
}

func (j *Judge) end() {
	j.stop()
	j.done.Wait()
}

func (j *Judge) kafka() []kgo.Opt { return []kgo.Opt{kgo.SeedBrokers(j.rig.Kafka.Direct()...)} }

// Verdict reads everything and fails the test if a property is broken, or if
// one of those named had nothing to be judged by. The run must have come to
// rest: writers ended, relay caught up.
func (j *Judge) Verdict(t testing.TB, required ...verify.Property) verify.Report {
	t.Helper()
	j.end()
	if err := errors.Join(j.errs[:]...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ev, err := verify.Collect(ctx, j.rig.Conn(t), verify.Sources{
		Oracle: j.oracle, Kafka: j.kafka(), Checkpoint: j.rig.Checkpoint, Name: j.rig.Name,
		Topics: verify.Topics{
			Events: append([]string{j.rig.Events}, j.Redirects...), Letters: []string{j.rig.Letters}, State: j.rig.State,
		},
		Rules: verify.Rules{
			Topic: j.rig.Events, Quiet: true, Redirects: j.Redirects, Parked: j.rig.Env["OUTBOX_DLQ_PARK_KEYS"] == "true",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ev.Samples, ev.Sightings = j.sampler.Samples(), j.watch.Sightings()
	report := verify.Check(ev)
	t.Log("\n" + report.String())
	if err := report.Require(required...); err != nil {
		t.Errorf("checker: %v", err)
	}
	return report
}

// Written runs writers until they have done cfg.Transactions.
func (r *Rig) Written(ctx context.Context, t testing.TB, cfg load.Config) load.Totals {
	t.Helper()
	cfg.URL, cfg.Run = r.Database.URL(), r.Name
	totals, err := load.Run(ctx, cfg)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return totals
}

// Load runs writers until the returned function is called, which waits for
// them and returns what they did.
func (r *Rig) Load(t testing.TB, cfg load.Config) (stop func() load.Totals) {
	t.Helper()
	cfg.URL = r.Database.URL()
	if cfg.Run == "" {
		cfg.Run = r.Name
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var totals load.Totals
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		totals, err = load.Run(ctx, cfg)
	}()
	var once sync.Once
	stop = func() load.Totals {
		once.Do(func() {
			cancel()
			<-done
			if err != nil {
				t.Errorf("load: %v", err)
			}
		})
		return totals
	}
	t.Cleanup(func() { stop() })
	return stop
}
