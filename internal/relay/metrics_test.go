package relay

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/mutant"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

func TestMetrics(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		reg := prometheus.NewRegistry()
		r.Metrics = NewMetrics(reg, "orders")
		w.errs["OpenSource"] = []error{fault.New(fault.PostgresUnreachable, "injected")}
		stop := w.start(t, r)
		settle(time.Second)
		values := gather(t, reg)
		for name, want := range map[string]float64{
			"outbox_leader/orders":                                1,
			"outbox_relay_state/streaming":                        1,
			"outbox_relay_state/backoff":                          0,
			"outbox_relay_state/standby":                          0,
			"outbox_end_to_end_latency_seconds":                   1, // observations
			"outbox_source_reconnects_total/postgres_unreachable": 1,
		} {
			if got, ok := values[name]; !ok || got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		values = gather(t, reg)
		if values["outbox_leader/orders"] != 0 || values["outbox_relay_state/stopped"] != 1 {
			t.Errorf("after the end: %v", values)
		}
	})
}

// gather reads a registry as name, or name/label, to value.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "/" + l.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// row is one more transaction of one row, committed now.
func row(w *world) tx {
	x := transactions(make([]int, len(w.history)+1)...)[len(w.history)]
	x.rows, x.at = []uint64{1}, time.Now()
	return x
}

// The lag is the age of what is read and not delivered, and between sessions
// the time since all was delivered: Kafka that is away makes it grow although
// nobody knows what waits in the WAL.
func TestLag(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world, r *Relay) {
		reg := prometheus.NewRegistry()
		r.Metrics, r.Heartbeat = NewMetrics(reg, "orders"), 10*time.Second
		free := make(chan struct{})
		w.stall = func(ctx context.Context) error {
			select {
			case <-free:
				return nil
			case <-time.After(20 * time.Second):
				return fault.New(fault.KafkaUnreachable, "injected")
			}
		}
		want := func(when string, lag, records float64) {
			t.Helper()
			v := gather(t, reg)
			if v["outbox_lag_seconds/orders"] != lag || v["outbox_buffered_records"] != records {
				t.Errorf("%s: lag %v s with %v records in hand, want %v and %v", when, v["outbox_lag_seconds/orders"], v["outbox_buffered_records"], lag, records)
			}
		}
		stop := w.start(t, r)
		settle(time.Minute)
		want("idle", 0, 0)
		w.grow(row(w))
		settle(3 * time.Second)
		w.grow(row(w))
		settle(2 * time.Second)
		want("one row under way and one behind it", 5, 2)
		// Sessions begin and end without a delivery.
		settle(10 * time.Minute)
		want("blocked", 605, 2)
		w.mu.Lock()
		for range 5 {
			w.errs["OpenSink"] = append(w.errs["OpenSink"], fault.New(fault.KafkaUnreachable, "injected"))
		}
		w.mu.Unlock()
		settle(30 * time.Second)
		want("without a session", 635, 0)
		close(free)
		settle(10 * time.Minute)
		want("caught up", 0, 0)
		v := gather(t, reg)
		if v["outbox_backpressure_seconds_total/breaker"] < 60 || v["outbox_checkpoint_age_seconds"] < 60 {
			t.Errorf("after an open breaker: %v", v)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A slot that is held and nothing delivered since makes a lag without a row; a
// standby has none, and neither has one that never held the slot.
func TestLagOfReplicas(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world, r *Relay) {
		lags := map[string]*prometheus.Registry{}
		next := w.relay()
		for name, r := range map[string]*Relay{"first": r, "next": next} {
			lags[name] = prometheus.NewRegistry()
			r.Metrics, r.Heartbeat = NewMetrics(lags[name], name), 10*time.Second
		}
		want := func(when string, first, second, changes float64) {
			t.Helper()
			a, b := gather(t, lags["first"]), gather(t, lags["next"])
			if a["outbox_lag_seconds/first"] != first || b["outbox_lag_seconds/next"] != second || b["outbox_leader_changes_total/next"] != changes {
				t.Errorf("%s: lags %v and %v, %v changes, want %v, %v and %v", when, a["outbox_lag_seconds/first"], b["outbox_lag_seconds/next"], b["outbox_leader_changes_total/next"], first, second, changes)
			}
		}
		w.errs["OpenSource"] = []error{fault.New(fault.PostgresUnreachable, "injected"), fault.New(fault.PostgresUnreachable, "injected")}
		r.Pause = func(int) time.Duration { return time.Minute }
		stop := w.start(t, r)
		settle(time.Minute + time.Second)
		want("never held the slot", 0, 0, 0)
		settle(2 * time.Minute)
		w.grow(row(w))
		synctest.Wait()
		stopNext := w.start(t, next)
		settle(time.Minute)
		want("one streams, the other stands by", 0, 0, 0)
		w.mu.Lock()
		w.errs["OpenSink"] = []error{fault.New(fault.KafkaUnreachable, "injected"), fault.New(fault.KafkaUnreachable, "injected")}
		w.mu.Unlock()
		next.Pause = func(int) time.Duration { return time.Minute }
		if err := stop(); err != nil {
			t.Error(err)
		}
		settle(30 * time.Second)
		want("taken over, and Kafka is away", 0, 30, 0)
		settle(5 * time.Minute)
		// Both are one process here, which knows its own checkpoints.
		want("Kafka came back", 0, 0, 0)
		w.stall = func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		w.grow(row(w))
		settle(30 * time.Second)
		want("Kafka hangs", 0, 30, 0)
		if err := stopNext(); err != nil {
			t.Error(err)
		}
		want("stopped", 0, 0, 0)
	})
}

// Letters count when they are committed: those of a transaction that failed
// come again.
func TestLettersCount(t *testing.T) {
	if mutant.TrustCommitError || mutant.ConfirmEarly || mutant.FilterByRowLSN {
		t.Skip("a build that is wrong on purpose")
	}
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		reg := prometheus.NewRegistry()
		r.Metrics, r.Letters = NewMetrics(reg, "orders"), letters(false, w)
		r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) {
			return keyed{poison: func(string) bool { return true }}, nil
		}
		w.errs["Begin"] = []error{fault.New(fault.KafkaUnreachable, "injected")}
		stop := w.start(t, r)
		settle(time.Minute)
		if n := gather(t, reg)["outbox_dlq_records_total/"+string(dlq.ReservedHeader)+"/"+string(dlq.StageOf(dlq.ReservedHeader))]; n != 1 {
			t.Errorf("%v letters were counted", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestMetricsAreClean(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	NewMetrics(reg, "orders")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// What every transaction of the source costs is counted without allocating.
func TestCountingDoesNotAllocate(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry(), "orders")
	b := newGathering(Limits{Size: 10, Max: 10, MaxBytes: 1 << 20}, base())
	b.metrics = m
	m.streams(b, base(), false)
	if n := testing.AllocsPerRun(100, func() {
		m.decoded(time.Millisecond)
		m.parked(0)
		m.landed()
		b.landed()
		_ = b.stock()
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Who has lost the slot to another replica owes nothing any more, and begins
// anew when it takes it again.
func TestLatenessRests(t *testing.T) {
	t.Parallel()
	var l lateness
	now := time.Unix(1000, 0)
	l.hold(now)
	l.hold(now.Add(10 * time.Second)) // another session of the same replica
	if got := l.seconds(now.Add(time.Minute)); got != 60 {
		t.Errorf("holding: %v s", got)
	}
	l.rest()
	if got := l.seconds(now.Add(time.Hour)); got != 0 {
		t.Errorf("standing by: %v s", got)
	}
	l.hold(now.Add(2 * time.Hour))
	if got := l.seconds(now.Add(2*time.Hour + time.Second)); got != 1 {
		t.Errorf("holding again: %v s", got)
	}
}
