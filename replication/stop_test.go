package replication_test

import (
	"context"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

// stop asks the server to stop fast, and tells how long that took.
func stop(t *testing.T, pg *harness.PostgresServer) time.Duration {
	t.Helper()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := pg.Stop(ctx, harness.Fast); err != nil {
		t.Fatalf("Postgres does not stop: %v", err)
	}
	return time.Since(begun)
}

// TestFastStop: a stopping Postgres waits until its walsenders' clients have
// confirmed everything. It may not wait for us longer than that takes.
func TestFastStop(t *testing.T) {
	t.Parallel()
	// Where everything is confirmed the grace is never needed, so it is long and
	// the stop far shorter; else it is what ends the wait.
	const long, short, most = 20 * time.Second, time.Second, 15 * time.Second
	for _, c := range []struct {
		name  string
		read  func(ctx context.Context, src *running)
		grace time.Duration
	}{
		{"everything is confirmed at once", func(ctx context.Context, src *running) {
			src.Resume(replication.Resume{})
			for {
				tx, err := src.Next(ctx)
				if err != nil {
					return
				}
				if tx.Last || tx.Idle {
					src.Confirm(tx.EndLSN)
				}
			}
		}, long},
		// As when Kafka is down: read, and never confirmed.
		{"nothing is confirmed", func(ctx context.Context, src *running) {
			src.Resume(replication.Resume{})
			for {
				if _, err := src.Next(ctx); err != nil {
					return
				}
			}
		}, short},
		{"nobody reads", func(_ context.Context, src *running) { src.Resume(replication.Resume{}) }, short},
		{"not resumed", func(context.Context, *running) {}, short},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pg := harness.NewPostgres(t, harness.PostgresConfig{})
			s := newSite(t, pg)
			s.cfg.StopGrace, s.cfg.QueueBytes = c.grace, 1
			src := run(t, s.cfg)
			read := make(chan struct{})
			go func() {
				defer close(read)
				c.read(t.Context(), src)
			}()
			s.Exec(t, `INSERT INTO outbox.events SELECT i, decode(repeat('ab', 500000), 'hex') FROM generate_series(1, 30) i`)
			if took := stop(t, pg); took > most {
				t.Errorf("Postgres took %s to stop", took)
			}
			if err := src.wait(); !fault.Has(err, fault.PostgresStopping) && !fault.Has(err, fault.PostgresLost) {
				t.Errorf("ended with %v", err)
			}
			<-read
		})
	}
}

// TestReplyAsked: the server's wish for an answer reaches the consumer, who
// alone can confirm what is asked about.
func TestReplyAsked(t *testing.T) {
	t.Parallel()
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	s := newSite(t, pg)
	src := run(t, s.cfg)
	src.Resume(replication.Resume{})
	s.events(t, "a")
	src.want("a") // and not confirmed: there is something to wait for
	asked := make(chan bool)
	go func() {
		ever := false
		for {
			tx, err := src.Next(t.Context())
			if err != nil {
				asked <- ever
				return
			}
			if tx.Idle && tx.ReplyAsked {
				ever = true
				src.Confirm(tx.EndLSN)
			}
		}
	}()
	if took := stop(t, pg); took > 2*time.Second {
		t.Errorf("answered where it asked, Postgres took %s to stop", took)
	}
	if !<-asked {
		t.Error("ended without having asked")
	}
}

// TestCrashRestart: after a crash the slot may have gone back; everything that
// was not confirmed comes again.
func TestCrashRestart(t *testing.T) {
	t.Parallel()
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	s := newSite(t, pg)
	src := run(t, s.cfg)
	src.Resume(replication.Resume{})
	s.events(t, "a")
	a := src.want("a")
	src.Confirm(a.EndLSN)
	s.events(t, "b")
	src.want("b")
	if err := pg.RestartImmediate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := src.wait(); fault.CodeOf(err).Class != fault.Retry {
		t.Errorf("ended with %v", err)
	}
	src = run(t, s.cfg)
	if f := src.State().Slot.ConfirmedLSN; f > a.EndLSN {
		t.Errorf("slot at %s, only %s was confirmed", f, a.EndLSN)
	}
	src.Resume(replication.Resume{Floor: a.EndLSN})
	src.want("b")
}
