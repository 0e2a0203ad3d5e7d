package breaker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
)

var refused = fault.New(fault.KafkaUnreachable, "reach Kafka").WithWhy("nothing listens").WithFix("start it")

// bench is one breaker with a Kafka that is there or not.
type bench struct {
	*Breaker
	opened int // attempts to open a session

	mu      sync.Mutex
	kafka   func() error // what sessions and probes meet
	probes  int
	changes []string
}

// is sets what Kafka answers from now on.
func (b *bench) is(err error) { b.does(func() error { return err }) }

func (b *bench) does(f func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kafka = f
}

func (b *bench) ask() error {
	b.mu.Lock()
	f := b.kafka
	b.mu.Unlock()
	return f()
}

func (b *bench) probe(context.Context) error {
	b.mu.Lock()
	b.probes++
	b.mu.Unlock()
	return b.ask()
}

func (b *bench) probed() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.probes
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, cfg Config, test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{kafka: func() error { return nil }}
		start := time.Now()
		b.Breaker = New(cfg, Options{
			Name: "kafka", Log: zerolog.Nop(), Probe: b.probe,
			OnChange: func(st Status) {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.changes = append(b.changes, fmt.Sprintf("%s %s", time.Since(start).Truncate(time.Second), st.State))
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		test(t, b)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// attempt opens a session, or does not get to.
func (b *bench) attempt(ctx context.Context) error {
	return b.Do(ctx, func() error { b.opened++; return b.ask() })
}

func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func same[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// The life of an outage with the defaults: five failures, five minutes, two
// probes.
func TestOutage(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, b *bench) {
		b.is(refused)
		for n := range 4 {
			if err := b.attempt(t.Context()); !fault.Has(err, fault.KafkaUnreachable) {
				t.Fatalf("attempt %d: %v", n+1, err)
			}
			same(t, "state", Closed, b.Status().State)
		}
		err := b.attempt(t.Context())
		if !fault.Has(err, fault.BreakerOpen) || !errors.Is(err, refused) {
			t.Fatalf("attempt 5: %v", err)
		}
		f := fault.As(err)
		same(t, "fix", "start it", f.Remedy())
		if why := f.Reason(); !strings.Contains(why, "OBX-5001 kafka_unreachable (retry): nothing listens") {
			t.Errorf("why: %s", why)
		}
		// Nobody is let through, and nobody asks.
		settle(5*time.Minute - time.Second)
		if err := b.attempt(t.Context()); !fault.Has(err, fault.BreakerOpen) {
			t.Errorf("while open: %v", err)
		}
		same(t, "attempts", 5, b.opened)
		same(t, "probes", 0, b.probed())
		settle(2 * time.Second) // half-open: the first probe fails
		same(t, "probes", 1, b.probed())
		settle(5 * time.Minute) // and one after each further time
		same(t, "probes", 2, b.probed())
		b.is(nil)
		settle(5 * time.Minute)
		same(t, "probes", 4, b.probed())
		if err := b.attempt(t.Context()); err != nil {
			t.Errorf("after two probes: %v", err)
		}
		same(t, "changes", []string{
			"0s open", "5m0s half-open", "5m0s open", "10m0s half-open", "10m0s open", "15m0s half-open", "15m0s closed",
		}, b.changes)
		if st := b.Status(); st.Err() != nil || st.Cause != nil || st.Opened != 3 {
			t.Errorf("status at the end: %+v", st)
		}
	})
}

// Two successes in a row: one that is followed by a failure is none.
func TestSuccessesInARow(t *testing.T) {
	bubble(t, Config{Failures: 1, Reset: time.Second, Successes: 3}, func(t *testing.T, b *bench) {
		b.is(refused)
		_ = b.attempt(t.Context())
		b.does(func() error {
			if n := b.probed(); n == 2 || n == 5 {
				return refused
			}
			return nil
		})
		settle(10 * time.Second)
		// good bad | good good bad | good good good
		same(t, "probes", 8, b.probed())
		same(t, "state", Closed, b.Status().State)
		same(t, "opened", 3, b.Status().Opened)
	})
}

// Until the last probe has answered nobody is let through.
func TestHalfOpenUntilTheLastSuccess(t *testing.T) {
	bubble(t, Config{Failures: 1, Reset: time.Minute}, func(t *testing.T, b *bench) {
		b.is(refused)
		_ = b.attempt(t.Context())
		b.does(func() error { time.Sleep(time.Second); return nil })
		settle(61500 * time.Millisecond) // inside the second
		same(t, "state", HalfOpen, b.Status().State)
		if err := b.attempt(t.Context()); !fault.Has(err, fault.BreakerOpen) {
			t.Errorf("half-open: %v", err)
		}
		settle(time.Second)
		same(t, "state", Closed, b.Status().State)
		same(t, "attempts", 1, b.opened)
	})
}

// Failures count in a row: a session that opens makes those before it a thing
// of the past.
func TestSuccessForgives(t *testing.T) {
	bubble(t, Config{Failures: 3}, func(t *testing.T, b *bench) {
		for _, err := range []error{refused, refused, nil, refused, refused} {
			b.is(err)
			_ = b.attempt(t.Context())
		}
		same(t, "state", Closed, b.Status().State)
		_ = b.attempt(t.Context())
		same(t, "state", Open, b.Status().State)
	})
}

// What says nothing about the connection is no failure of it, in whatever
// number, and comes through as it is.
func TestWhatCounts(t *testing.T) {
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tc := range []struct {
		name   string
		ctx    context.Context
		err    error
		counts bool
	}{
		{"refused", t.Context(), refused, true},
		{"wrapped", t.Context(), fmt.Errorf("write barrier: %w", refused), true},
		{"credentials", t.Context(), fault.New(fault.KafkaAuth, "x"), true},
		{"TLS", t.Context(), fault.New(fault.KafkaTLS, "x"), true},
		{"no leader", t.Context(), fault.New(fault.KafkaUnavailable, "x"), true},
		{"barrier not readable", t.Context(), fault.New(fault.BarrierTimeout, "x"), true},
		{"fenced", t.Context(), fault.New(fault.Fenced, "x"), false},
		{"checkpoint missing", t.Context(), fault.New(fault.CheckpointMissing, "x"), false},
		{"topic shape", t.Context(), fault.New(fault.KafkaTopicShape, "x"), false},
		{"setting", t.Context(), fault.New(fault.ConfigInvalid, "x"), false},
		{"slot lost", t.Context(), fault.New(fault.PostgresLost, "x"), false},
		{"no code", t.Context(), errors.New("x"), false},
		{"stopped", stopped, refused, false},
		{"cancelled", t.Context(), fmt.Errorf("open: %w", context.Canceled), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := New(Config{Failures: 2, Reset: time.Hour}, Options{Log: zerolog.Nop()})
			do := func() error { return b.Do(tc.ctx, func() error { return tc.err }) }
			if err := do(); err != tc.err {
				t.Errorf("the first came back as %v", err)
			}
			// A success of the connection it is not either.
			_ = b.Do(t.Context(), func() error { return refused })
			want := Closed
			if tc.counts {
				want = Open
			}
			same(t, "state", want, b.Status().State)
			if !tc.counts {
				if err := do(); err != tc.err {
					t.Errorf("the second came back as %v", err)
				}
				_ = b.Do(t.Context(), func() error { return refused })
				same(t, "state", Open, b.Status().State)
			}
		})
	}
}

// A probe that Kafka answers with something no waiting cures lets the session
// say it.
func TestProbeThatHalts(t *testing.T) {
	bubble(t, Config{Failures: 1, Reset: time.Second}, func(t *testing.T, b *bench) {
		b.is(refused)
		_ = b.attempt(t.Context())
		b.is(fault.New(fault.KafkaVersion, "too old"))
		settle(2 * time.Second)
		if err := b.attempt(t.Context()); !fault.Has(err, fault.KafkaVersion) {
			t.Errorf("%v", err)
		}
		same(t, "state", Closed, b.Status().State)
	})
}

// A probe without a code is one that failed: nobody knows that Kafka answered.
func TestProbeWithoutCode(t *testing.T) {
	bubble(t, Config{Failures: 1, Reset: time.Second}, func(t *testing.T, b *bench) {
		b.is(refused)
		_ = b.attempt(t.Context())
		b.is(errors.New("x"))
		settle(5 * time.Second)
		same(t, "state", Open, b.Status().State)
		same(t, "cause", fault.Unclassified, b.Status().Cause.Code)
	})
}

// Who waits gets to know at each end of the waiting.
func TestAwait(t *testing.T) {
	bubble(t, Config{Failures: 1, Reset: time.Minute}, func(t *testing.T, b *bench) {
		if err := b.Await(t.Context()); err != nil {
			t.Errorf("closed: %v", err)
		}
		b.is(refused)
		_ = b.attempt(t.Context())
		begin := time.Now()
		if err := b.Await(t.Context()); !fault.Has(err, fault.BreakerOpen) {
			t.Errorf("a probe failed: %v", err)
		}
		same(t, "waited", time.Minute, time.Since(begin).Truncate(time.Second))
		told := errors.New("told to stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(told) })
		if err := b.Await(ctx); err != told {
			t.Errorf("stopped: %v", err)
		}
		b.is(nil)
		if err := b.Await(t.Context()); err != nil {
			t.Errorf("closed again: %v", err)
		}
	})
}

// Told to stop inside a probe, the breaker does not hold that against Kafka.
func TestStopInsideProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Failures: 1, Reset: time.Second}, Options{Log: zerolog.Nop(), Probe: func(ctx context.Context) error {
			<-ctx.Done()
			return fault.Wrap(ctx.Err(), fault.KafkaUnreachable, "probe")
		}})
		_ = b.Do(t.Context(), func() error { return refused })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		settle(2 * time.Second)
		same(t, "state", HalfOpen, b.Status().State)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		same(t, "state", HalfOpen, b.Status().State)
		same(t, "opened", 1, b.Status().Opened)
	})
}

// Looking changes nothing, however late: only Run lets it be half-open.
func TestLookingChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Failures: 1, Reset: time.Second}, Options{Log: zerolog.Nop()})
		_ = b.Do(t.Context(), func() error { return refused })
		settle(time.Hour)
		same(t, "state", Open, b.Status().State)
		if err := b.Do(t.Context(), func() error { t.Error("let through"); return nil }); !fault.Has(err, fault.BreakerOpen) {
			t.Error(err)
		}
	})
}

func TestConfig(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		want []string
	}{
		{Config{}.Defaults(), nil},
		{Config{Failures: 1, Reset: 100 * time.Millisecond, Successes: 1}, nil},
		{Config{}, []string{"KAFKA_BREAKER_FAILURES is 0", "KAFKA_BREAKER_SUCCESSES is 0", "KAFKA_BREAKER_RESET is 0s"}},
		{Config{Failures: -1, Reset: -1, Successes: 2_000_000}, []string{"KAFKA_BREAKER_FAILURES is -1", "KAFKA_BREAKER_SUCCESSES is 2000000", "KAFKA_BREAKER_RESET is -1ns"}},
	} {
		var got []string
		for _, f := range tc.cfg.Validate() {
			got = append(got, f.Detail)
		}
		same(t, fmt.Sprintf("faults of %+v", tc.cfg), tc.want, got)
	}
	same(t, "defaults", Config{Failures: 5, Reset: 5 * time.Minute, Successes: 2}, Config{}.Defaults())
}
