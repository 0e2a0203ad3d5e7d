package relay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// randomHistory has transactions of ours and of others, of one row and of many
// more than fit one Kafka transaction, at once and with pauses that are long
// against the heartbeat.
func randomHistory(rng *rand.Rand) []tx {
	rows := make([]int, 3+rng.IntN(5))
	for i := range rows {
		rows[i] = []int{0, 1, 1, 2, 4, 17}[rng.IntN(6)]
	}
	history := transactions(rows...)
	for i := range history {
		history[i].after = []time.Duration{0, 0, time.Millisecond, 200 * time.Millisecond}[rng.IntN(4)]
		shift := uint64(0)
		for j := range history[i].rows {
			shift += rng.Uint64N(3) // changes of other tables
			history[i].rows[j] += shift
		}
	}
	return history
}

// play runs two replicas over a random history until all of it is confirmed.
// at decides what each step suffers; step counts from 1 over both replicas.
func play(t *testing.T, seed uint64, at func(step int) verdict) (steps int) {
	t.Helper()
	var suffered []string
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(randomHistory(rng))
		w.rng, w.parts, w.chatty = rng, 1+rng.IntN(4), true
		w.breaker = breaker.Config{Failures: 1 + rng.IntN(3), Reset: time.Second}
		w.at = func(point string) verdict {
			steps++
			v := at(steps)
			if v != pass {
				suffered = append(suffered, fmt.Sprintf("%s at %s (%d)", v, point, steps))
			}
			return v
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var replicas sync.WaitGroup
		for range 2 {
			replicas.Go(func() {
				for ctx.Err() == nil {
					err := live(ctx, w.relay())
					if err != nil && !fault.Has(err, fault.Panicked) {
						w.mu.Lock()
						w.violate("halted: %v", err)
						w.mu.Unlock()
						cancel()
					}
				}
			})
		}
		select {
		case <-w.caught:
		case <-ctx.Done():
			t.Errorf("not done after an hour, slot at %s of %s", w.slot, w.end())
		}
		cancel()
		replicas.Wait()
		w.check(t)
		if diff := cmp.Diff(allIDs(w.history), w.published()); diff != "" {
			t.Errorf("rows (-committed +published):\n%s", diff)
		}
		if t.Failed() {
			t.Logf("seed %d: %v\n%s", seed, suffered, strings.Join(w.calls, "\n"))
		}
	})
	return steps
}

// Every row exactly once and in order, whatever goes wrong at whichever step,
// before it or after it: this is the claim of the package. Kafka's answer to a
// commit may be lost either way, or come late; a process may die or be cut off
// from its slot while another takes over.
func TestModelOneFaultAnywhere(t *testing.T) {
	seeds := uint64(6)
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		steps := play(t, seed, func(int) verdict { return pass })
		for n := 1; n <= steps; n++ {
			for v := fail; v < verdicts; v++ {
				play(t, seed, func(step int) verdict {
					if step == n {
						return v
					}
					return pass
				})
			}
		}
	}
}

// The same with many faults in one life.
func TestModelManyFaults(t *testing.T) {
	seeds := uint64(1500)
	if testing.Short() {
		seeds = 300
	}
	for seed := range seeds {
		faults := rand.New(rand.NewPCG(seed, 2))
		left := 25
		play(t, seed, func(int) verdict {
			if left == 0 || faults.IntN(8) != 0 {
				return pass
			}
			left--
			return verdict(faults.IntN(int(verdicts)))
		})
	}
}

func (v verdict) String() string {
	return [...]string{"pass", "fail", "panic", "kill", "steal", "lost answer", "lost request", "late request"}[v]
}
