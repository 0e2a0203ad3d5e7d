package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/test/rig"
)

// What is parked may be refused by a broker when its turn comes. Then it blocks
// what is behind it, with a letter of its own, until somebody deals with it.
func TestParkedRowIsRefused(t *testing.T) {
	ctx := within(t, 80*time.Second)
	r := rig.New(t, rig.Config{
		Env:           map[string]string{"OUTBOX_DLQ_PARK_KEYS": "true"},
		EventSettings: map[string]string{"message.timestamp.before.max.ms": aDay},
	})
	r.Init(t)
	judge := r.Judge(t)
	rig.AwaitStreaming(t, r.Serve(t, nil))
	row := func(key string, seq int, poison, headers, created string) string {
		return fmt.Sprintf(`INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, headers, created_at)
		    VALUES ('order', '%s', 'Created', '{"key": "%[1]s", "key_seq": %d%s}', '%s', %s)`, key, seq, poison, headers, created)
	}
	r.Database.Exec(t,
		row("blocked", 1, `, "poison": "reserved_header"`, `{"outbox.lsn": "0/0"}`, "now()"),
		row("blocked", 2, "", "{}", "now()"),
		row("blocked", 3, `, "poison": "refused"`, "{}", "now() - interval '10 years'"),
		row("blocked", 4, "", "{}", "now()"),
		row("free", 1, "", "{}", "now()"),
	)
	r.AwaitCaughtUp(ctx, t)
	letters(ctx, t, r, map[string]int{"reserved_header": 1, "parked": 3})

	succeeds(t, r, "dlq", "replay", "--yes")
	letters(ctx, t, r, map[string]int{"reserved_header": 1, "parked": 3, "refused": 1})
	// The second has gone, the third is a letter of its own, the fourth waits.
	if n := r.Count(ctx, t, r.Events); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
	r.Configure(ctx, t, r.Events, map[string]string{"message.timestamp.before.max.ms": "9223372036854775807"})
	succeeds(t, r, "dlq", "replay", "--yes")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for len(r.Peek(ctx, t).Last.Parked) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the key stays parked")
		}
	}
	report := judge.Verdict(t, verify.P1, verify.P2, verify.P3, verify.P4, verify.P5, verify.P8, verify.P13, verify.P14)
	if c := report.Counts; c.Published != 1 || c.Replayed != 4 || c.Letters != 5 {
		t.Errorf("%d published, %d replayed of %d letters; want 1, 4 and 5", c.Published, c.Replayed, c.Letters)
	}
}

// letters waits until there are so many, by reason.
func letters(ctx context.Context, t testing.TB, r *rig.Rig, want map[string]int) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		got := r.Reasons(ctx, t)
		if cmp.Equal(want, got) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("letters by reason: %v, want %v", got, want)
		}
	}
}

// succeeds runs a command that has to succeed.
func succeeds(t testing.TB, r *rig.Rig, args ...string) {
	t.Helper()
	if out := r.Command(t, args...); out.ExitCode != 0 {
		t.Fatalf("%v: exit %d\n%s%s", args, out.ExitCode, out.Stdout, out.Stderr)
	}
}
