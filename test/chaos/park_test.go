package chaos

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// openLetter is as much of a line of `dlq list` as is needed here.
type openLetter struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// openLetters are those that nothing has become of, in the order of the topic;
// blocking are those of them that wait for a person.
func openLetters(t *testing.T, r *rig.Rig) (all, blocking []openLetter) {
	t.Helper()
	out := r.Command(t, "dlq", "list", "--state", "open", "--max", "0", "-o", "json")
	if out.ExitCode != 0 {
		t.Fatalf("dlq list: exit %d\n%s", out.ExitCode, out.Stderr)
	}
	for line := range strings.Lines(out.Stdout) {
		var l openLetter
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("dlq list: %v\n%s", err, line)
		}
		all = append(all, l)
		if l.Reason != "parked" {
			blocking = append(blocking, l)
		}
	}
	return all, blocking
}

// person does something about letters that block: the first ones, or some.
// Whatever is asked for, the tool may hold back what would break an order.
func person(t *testing.T, r *rig.Rig, rng *rand.Rand) {
	t.Helper()
	_, blocking := openLetters(t, r)
	if len(blocking) == 0 {
		return
	}
	args := []string{"dlq", []string{"replay", "replay", "purge"}[rng.IntN(3)], "--yes"}
	if rng.IntN(2) == 0 {
		args = append(args, "--max", strconv.Itoa(1+rng.IntN(10)))
	} else {
		for range 1 + rng.IntN(3) {
			args = append(args, blocking[rng.IntN(len(blocking))].ID)
		}
	}
	// 1: something was held back.
	if out := r.Command(t, args...); out.ExitCode != 0 && out.ExitCode != 1 {
		t.Fatalf("%v: exit %d\n%s%s", args, out.ExitCode, out.Stdout, out.Stderr)
	}
}

// Poison in the hottest keys, later events of which wait behind it, while the
// relay is killed and letters are replayed and purged in any order. At the end
// nothing waits, every event arrived once or was purged, and the order of each
// key holds over all of them: P4 counts replays in where keys are parked.
func TestParkingKilled(t *testing.T) {
	r := rig.New(t, rig.Config{Env: map[string]string{"OUTBOX_DLQ_PARK_KEYS": "true"}})
	r.Init(t)
	judge := r.Judge(t)
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 3))
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	stop := r.Load(t, load.Config{
		Seed: s, Keys: 10, HotShare: 0.4, Pause: 150 * time.Millisecond, LargeRows: 300,
		Poisons: []load.Poison{load.ReservedHeader, load.Undecodable}, PoisonShare: 0.02, PoisonKeys: 3,
	})
	n, killed := times(t, "OUTBOX_CHAOS_PARK_ROUNDS", 20), 0
	for range n {
		time.Sleep(time.Duration(rng.IntN(600)) * time.Millisecond) // the random moment is the point
		if rng.IntN(3) == 0 {
			if err := relay.Kill(); err != nil {
				t.Fatal(err)
			}
			relay = r.Serve(t, nil)
			killed++
		}
		person(t, r, rng)
	}
	totals := stop()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r.AwaitCaughtUp(ctx, t)
	for {
		all, _ := openLetters(t, r)
		if len(all) == 0 && len(r.Peek(ctx, t).Last.Parked) == 0 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("%d letters are open, %d keys parked", len(all), len(r.Peek(t.Context(), t).Last.Parked))
		}
		person(t, r, rng)
	}
	t.Logf("seed %d, %d rounds, %d kills; load: %s", s, n, killed, totals)
	report := judge.Verdict(t, append(everything, verify.P13, verify.P14)...)
	if report.Counts.Replayed == 0 {
		t.Error("nothing was sent on")
	}
}
