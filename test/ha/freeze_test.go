package ha

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// impatient are settings with which a frozen leader costs a test seconds.
var impatient = map[string]string{
	"OUTBOX_SENDER_TIMEOUT": "2s", "KAFKA_CONNECTION_TIMEOUT": "2000", "KAFKA_REQUEST_TIMEOUT": "3000",
	"KAFKA_TRANSACTION_TIMEOUT": "10s",
}

// A leader that is frozen is replaced when Postgres misses it, and stands by
// when it wakes up. It finds out that it was replaced before it writes anything
// that can be seen.
func TestTakeoverAfterFreeze(t *testing.T) {
	r := rig.New(t, rig.Config{Env: impatient})
	r.Init(t)
	judge := r.Judge(t)
	stop := r.Load(t, load.Config{Seed: 11, Pause: 20 * time.Millisecond, LargeRows: 5000})
	s := start(t, r, nil, nil)
	for range times(t, "OUTBOX_FREEZE_RUNS", 1) {
		old := s.replicas[s.lead]
		seen := len(old.Logs())
		one := s.takeOver(t, 30*time.Second, func() {
			if err := old.Pause(); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("free after %s, streaming %s later", one.free.Round(time.Millisecond), one.stream.Round(time.Millisecond))
		if err := old.Resume(); err != nil {
			t.Fatal(err)
		}
		awaitAfter(t, old, seen, "standby")
	}
	totals := stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r.AwaitCaughtUp(ctx, t)
	t.Logf("load: %s", totals)
	judge.Verdict(t, everything...)
}

// Lines that go dead without a word, between the leader and Postgres, Kafka or
// both. Nobody resets anything: that nothing comes is all that there is to see.
func TestTakeoverAfterPartition(t *testing.T) {
	rig.Real(t)
	var front *harness.Proxy
	broker := harness.NewKafka(t, harness.KafkaConfig{Advertised: func(listener string) (string, error) {
		front = harness.NewProxy(t, listener)
		return front.Addr(), nil
	}})
	for _, c := range []struct {
		name            string
		postgres, kafka bool
	}{
		{"Postgres", true, false},
		{"Kafka", false, true},
		{"both", true, true},
	} {
		if c.postgres && !c.kafka && !full() {
			continue // half a minute until the leader itself gives up
		}
		t.Run(c.name, func(t *testing.T) {
			r := rig.New(t, rig.Config{Kafka: broker, Brokers: broker.Direct(), Env: impatient})
			r.Init(t)
			judge := r.Judge(t)
			u, err := url.Parse(r.Database.URL())
			if err != nil {
				t.Fatal(err)
			}
			wire := harness.NewProxy(t, u.Host)
			u.Host = wire.Addr()
			stop := r.Load(t, load.Config{Seed: 12, Pause: 20 * time.Millisecond})
			// Only the leader is behind the proxies.
			s := start(t, r, map[string]string{"DATABASE_URL": u.String(), "KAFKA_BROKERS": broker.Brokers()[0]}, nil)
			old := s.replicas[0]
			seen := len(old.Logs())
			one := s.takeOver(t, 60*time.Second, func() {
				if c.postgres {
					wire.Stall()
				}
				if c.kafka {
					front.Stall()
				}
			})
			t.Logf("free after %s, streaming %s later", one.free.Round(time.Millisecond), one.stream.Round(time.Millisecond))
			awaitAfter(t, old, seen, "session ended")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if status, body := rig.Ready(ctx, old); status == 200 {
				t.Errorf("the one that was cut off says that it is ready: %v", body)
			}
			for _, p := range []*harness.Proxy{wire, front} {
				if err := p.Restore(); err != nil {
					t.Fatal(err)
				}
			}
			awaitAfter(t, old, seen, "standby")
			totals := stop()
			r.AwaitCaughtUp(ctx, t)
			t.Logf("load: %s", totals)
			judge.Verdict(t, everything...)
		})
	}
}

// awaitAfter returns when a line has come after those that were seen.
func awaitAfter(t *testing.T, one *harness.Relay, seen int, msg string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	if _, err := one.WaitLogAfter(ctx, seen, rig.Message(msg)); err != nil {
		t.Fatal(fmt.Errorf("wait for %q: %w", msg, err))
	}
}
