package replication_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

type opening struct {
	src *replication.Source
	err error
}

// TestReluctant: who could do nothing with the slot gets it only if nobody else
// wants it, and then it does get it. It is a race, so it is run more than once.
func TestReluctant(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	s.cfg.StandbyPoll = 50 * time.Millisecond
	standby := func(ctx context.Context, reluctant bool) (opened chan opening, waits chan struct{}) {
		opened, waits = make(chan opening, 1), make(chan struct{}, 1)
		cfg := s.cfg
		cfg.Reluctant = func() bool { return reluctant }
		cfg.OnStandby = func(replication.Holder) {
			select {
			case waits <- struct{}{}:
			default:
			}
		}
		go func() {
			src, err := replication.Open(ctx, cfg, zerolog.Nop(), nil)
			opened <- opening{src, err}
		}()
		return opened, waits
	}
	for range 4 {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, errors.New("the test is over"))
		first := run(t, s.cfg)
		idle, idleWaits := standby(ctx, true)
		keen, keenWaits := standby(ctx, false)
		<-idleWaits
		<-keenWaits
		first.end()
		select {
		case r := <-keen:
			if r.err != nil {
				t.Fatal(r.err)
			}
			select {
			case r := <-idle:
				t.Fatalf("the reluctant one is there too: %v", r.err)
			case <-idleWaits: // it has seen who has it now
			}
			freed := time.Now()
			r.src.Close()
			alone(t, <-idle, freed, 4*s.cfg.StandbyPoll)
		case r := <-idle:
			t.Fatalf("the reluctant one was first (%v)", r.err)
		}
		cancel()
	}
}

// alone is the end: nobody else is there.
func alone(t *testing.T, r opening, freed time.Time, yield time.Duration) {
	t.Helper()
	if r.err != nil {
		t.Fatalf("nobody took it: %v", r.err)
	}
	defer r.src.Close()
	if waited := time.Since(freed); waited < yield {
		t.Errorf("it left the slot to others for %s, want %s", waited, yield)
	}
}
