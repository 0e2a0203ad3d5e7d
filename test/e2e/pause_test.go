package e2e

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// A run with a canary in it, transactions that are cut, a pause across a restart
// and a replica that has to heed it too: every row is there once, in order, and
// no canary is an event.
func TestPauseWithCanary(t *testing.T) {
	r := rig.New(t, rig.Config{Env: map[string]string{
		"OUTBOX_CANARY": "true", "OUTBOX_CANARY_INTERVAL": "100ms", "OUTBOX_GUARD_INTERVAL": "200ms",
		"OUTBOX_BATCH_SIZE": "50", "OUTBOX_BATCH_MAX": "100",
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	r.Init(t)
	j := r.Judge(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Written(ctx, t, load.Config{Seed: 1, Transactions: 60, LargeRows: 400})
	r.AwaitCaughtUp(ctx, t)
	canary := func() (id string) {
		if err := r.Conn(t).QueryRow(ctx, "SELECT coalesce(min(id), '') FROM outbox.canary").Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	for first := canary(); canary() == first; { // it is seen, and followed by another
		time.Sleep(50 * time.Millisecond)
	}

	if out := r.Command(t, "pause", "--reason", "a test"); out.ExitCode != 0 || !strings.Contains(out.Stdout, "paused by") {
		t.Fatalf("pause: %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	if _, err := relay.WaitLog(ctx, rig.Code(fault.Paused.ID)); err != nil {
		t.Fatal(err)
	}
	heldStill := func(relay *harness.Relay) {
		t.Helper()
		r.Insert(t, 10)
		seq, confirmed := r.Peek(ctx, t).Last.Seq, ""
		for range 4 { // three heartbeats
			c, _ := r.Confirmed(ctx, t)
			if confirmed == "" {
				confirmed = c.String()
			}
			if got := r.Peek(ctx, t).Last.Seq; got != seq || c.String() != confirmed {
				t.Fatalf("while paused: checkpoint %d became %d, confirmed %s became %s", seq, got, confirmed, c)
			}
			time.Sleep(time.Second)
		}
		if status, body := rig.Ready(ctx, relay); status != http.StatusOK || body["state"] != "paused" || body["code"] != fault.Paused.ID {
			t.Errorf("/readyz answers %d %v", status, body)
		}
	}
	heldStill(relay)
	stop(ctx, t, relay)
	relay = r.Serve(t, nil)
	if _, err := relay.WaitLog(ctx, rig.Code(fault.Paused.ID)); err != nil {
		t.Fatal(err)
	}
	heldStill(relay)
	if out := r.Command(t, "resume"); out.ExitCode != 0 {
		t.Fatalf("resume: %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	rig.AwaitStreaming(t, relay)
	r.Written(ctx, t, load.Config{Seed: 2, Transactions: 20, LargeRows: 400})
	r.AwaitCaughtUp(ctx, t)
	for told := ""; told != "streaming f t"; {
		if err := r.Conn(t).QueryRow(ctx, `SELECT concat_ws(' ', state, paused, rows_total > 0) FROM outbox.relay_status WHERE relay = $1`, r.Name).Scan(&told); err != nil {
			t.Fatalf("outbox.relay_status does not follow: %q, %v", told, err)
		}
	}
	stop(ctx, t, relay)
	j.Verdict(t, verify.P1, verify.P2, verify.P3, verify.P4)
}

// A Postgres that wants to stop is not held up by a relay that may confirm
// nothing.
func TestStopPostgresWhilePaused(t *testing.T) {
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	r := rig.New(t, rig.Config{Postgres: pg, Env: map[string]string{"OUTBOX_GUARD_INTERVAL": "200ms"}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Database.Exec(t, "SELECT outbox.pause('a test')")
	if _, err := relay.WaitLog(ctx, rig.Code(fault.Paused.ID)); err != nil {
		t.Fatal(err)
	}
	r.Insert(t, 10)
	if err := pg.Stop(ctx, harness.Fast); err != nil {
		t.Fatalf("Postgres does not stop: %v", err)
	}
	if err := pg.Start(ctx); err != nil {
		t.Fatal(err)
	}
	r.Database.Exec(t, "SELECT outbox.resume()")
	r.AwaitCaughtUp(ctx, t)
	stop(ctx, t, relay)
	everyRowOnce(ctx, t, r, r.Events)
}
