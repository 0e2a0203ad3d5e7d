package chaos

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// times is how often a loop goes round: a few times in CI, more elsewhere.
func times(t *testing.T, variable string, few int) int {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// seed of a run; OUTBOX_CHAOS_SEED repeats one.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("OUTBOX_CHAOS_SEED")
	if s == "" {
		return uint64(time.Now().UnixNano())
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("OUTBOX_CHAOS_SEED: %v", err)
	}
	return n
}

// Two replicas under load, SIGKILL at random moments, mostly of the one that
// streams. Transactions of the source have up to 20,000 rows.
func TestChaosKill(t *testing.T) {
	r := rig.New(t, rig.Config{})
	r.Init(t)
	judge := r.Judge(t)
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 1))
	n := times(t, "OUTBOX_CHAOS_KILLS", 10)
	t.Logf("seed %d, %d kills", s, n)
	stop := r.Load(t, load.Config{
		Seed: s, LargeRows: 20000, Pause: 250 * time.Millisecond, PoisonShare: 0.001,
	})
	replicas := []*harness.Relay{r.Serve(t, nil), r.Serve(t, nil)}
	streamed := 0
	for i := range n {
		time.Sleep(time.Duration(100+rng.IntN(1400)) * time.Millisecond) // the random moment is the point
		victim := leader(t, replicas)
		if rng.IntN(4) == 0 {
			victim = 1 - victim
		}
		for _, line := range replicas[victim].Logs() {
			if line["msg"] == "streaming" {
				streamed++
				break
			}
		}
		if err := replicas[victim].Kill(); err != nil {
			t.Fatal(err)
		}
		replicas[victim] = r.Serve(t, nil)
		if (i+1)%50 == 0 {
			t.Logf("%d kills", i+1)
		}
	}
	totals := stop()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	r.AwaitCaughtUp(ctx, t)
	t.Logf("%d kills, %d of them of a replica that had streamed; load: %s", n, streamed, totals)
	judge.Verdict(t, everything...)
}

// leader returns which replica is ready as the leader, or else the first.
func leader(t *testing.T, replicas []*harness.Relay) int {
	for i, r := range replicas {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, body := rig.Ready(ctx, r)
		cancel()
		if body["role"] == "leader" {
			return i
		}
	}
	return 0
}
