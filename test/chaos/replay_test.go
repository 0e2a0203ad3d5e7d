package chaos

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// asMeant are the letters that can go where they were meant to go, once the
// cause is healed; elsewhere are those that need another topic.
var (
	asMeant   = []string{"dlq", "replay", "--yes", "--reason", "too_large,reserved_header,decode"}
	elsewhere = []string{"dlq", "replay", "--yes", "--reason", "invalid_topic,unauthorized_topic", "--to"}
)

// lettered is a relay that streams, with a load behind it that left about so
// many letters, and the causes healed.
func lettered(t *testing.T, transactions int, share float64) (*rig.Rig, *rig.Judge) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := rig.New(t, rig.Config{EventSettings: map[string]string{"max.message.bytes": "65536"}})
	r.Topics.Create(t, "mended", 2, nil)
	r.Init(t)
	judge := r.Judge(t)
	judge.Redirects = []string{r.Topics.Name("mended")}
	rig.AwaitStreaming(t, r.Serve(t, nil))
	totals := r.Written(ctx, t, load.Config{
		Seed: seed(t), Transactions: transactions, LargeRows: 500, PoisonShare: share, OversizeBytes: 70_000,
		Poisons: []load.Poison{load.Oversize, load.IllegalTopic, load.DeniedTopic, load.ReservedHeader, load.Undecodable},
	})
	r.AwaitCaughtUp(ctx, t)
	t.Log(totals)
	r.Configure(ctx, t, r.Events, map[string]string{"max.message.bytes": "1048576"})
	return r, judge
}

// replayed fails unless every letter was replayed once, and nothing else is
// wrong.
func replayed(t *testing.T, judge *verify.Report) {
	t.Helper()
	if c := judge.Counts; c.Replayed != c.Letters || c.Marks != c.Letters || c.Letters == 0 {
		t.Errorf("%d letters, %d replays, %d marks", c.Letters, c.Replayed, c.Marks)
	}
}

// atWork tells the moment at which the state topic grows: most of a replay is
// spent on the way to its transaction, and this is inside.
func atWork(t *testing.T, r *rig.Rig, moment chan<- time.Time, over <-chan struct{}) {
	cl, err := r.Kafka.Client()
	if err != nil {
		t.Error(err)
		return
	}
	defer cl.Close()
	first := int64(-1)
	for {
		ends, err := kadm.NewClient(cl).ListEndOffsets(t.Context(), r.State)
		if err != nil {
			t.Error(err)
			return
		}
		end, _ := ends.Lookup(r.State, 0)
		if first < 0 {
			first = end.Offset
		}
		if end.Offset > first {
			moment <- time.Now()
			return
		}
		select {
		case <-over:
			return
		default:
		}
	}
}

// A replay that is killed with SIGKILL at random moments, again and again, while
// rows and letters go on coming: every letter is replayed once. The last rounds
// are left to end.
func TestReplayKilled(t *testing.T) {
	r, judge := lettered(t, 1500, 0.2)
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 2))
	n := times(t, "OUTBOX_CHAOS_REPLAY_KILLS", 5)
	stop := r.Load(t, load.Config{
		Seed: s + 1, Run: r.Name + "-later", Pause: 200 * time.Millisecond, LargeRows: 200, PoisonShare: 0.03,
		Poisons: []load.Poison{load.IllegalTopic, load.DeniedTopic, load.ReservedHeader, load.Undecodable},
	})
	jobs := [][]string{slices.Concat(asMeant, []string{"--max"}), slices.Concat(elsewhere, judge.Redirects, []string{"--max"})}
	began := time.Now()
	if out := r.Command(t, slices.Concat(jobs[0], []string{"10"})...); out.ExitCode != 0 {
		t.Fatalf("replay: exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	whole := time.Since(began)
	killed, ended := 0, 0
	for killed < n {
		moment, over := make(chan time.Time, 1), make(chan struct{})
		var watch sync.WaitGroup
		if rng.IntN(2) == 0 {
			time.AfterFunc(time.Duration(rng.Int64N(int64(whole))), func() { moment <- time.Now() })
		} else {
			watch.Go(func() { atWork(t, r, moment, over) })
		}
		args := slices.Concat(jobs[rng.IntN(2)], []string{strconv.Itoa(5 + rng.IntN(60))})
		out := harness.KillRelay(t, r.Bin, r.Env, moment, args...)
		close(over)
		watch.Wait()
		switch out.ExitCode {
		case -1:
			killed++
		case 0:
			ended++
		default:
			t.Fatalf("%v: exit %d\n%s%s", args, out.ExitCode, out.Stdout, out.Stderr)
		}
	}
	totals := stop()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r.AwaitCaughtUp(ctx, t)
	for _, job := range jobs {
		if out := r.Command(t, slices.Concat(job, []string{"0"})...); out.ExitCode != 0 {
			t.Fatalf("%v: exit %d\n%s%s", job, out.ExitCode, out.Stdout, out.Stderr)
		}
	}
	t.Logf("seed %d, %d killed midway, %d were faster, a whole one takes %s; later load: %s", s, killed, ended, whole, totals)
	report := judge.Verdict(t, append(everything, verify.P13, verify.P14)...)
	replayed(t, &report)
}

// Replays that run at once get into each other's way and no further: whoever
// is fenced says so, and every letter is replayed once.
func TestReplaysAtOnce(t *testing.T) {
	r, judge := lettered(t, 400, 0.2)
	jobs := [][]string{slices.Concat(asMeant, []string{"--max", "60", "-o", "json"}), slices.Concat(elsewhere, judge.Redirects, []string{"--max", "60", "-o", "json"})}
	var mu sync.Mutex
	ended := map[string]int{}
	for round := 0; ; round++ {
		var all sync.WaitGroup
		left := 0
		for i := range 4 {
			all.Go(func() {
				out := harness.RunRelay(t, r.Bin, r.Env, jobs[i%2]...)
				mu.Lock()
				defer mu.Unlock()
				var sum struct {
					Matching int `json:"matching"`
					Refused  int `json:"refused"`
				}
				switch {
				case out.ExitCode == 0:
					ended["whole"]++
					if err := json.Unmarshal([]byte(out.Stdout), &sum); err != nil {
						t.Errorf("%v\n%s", err, out.Stdout)
					}
					left += sum.Matching
				case strings.Contains(out.Stderr, "OBX-2112"):
					ended["fenced"]++
					left++
				default:
					t.Errorf("exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
				}
			})
		}
		all.Wait()
		if left == 0 || t.Failed() || round > 100 {
			break
		}
	}
	t.Logf("runs by their end: %v", ended)
	if ended["fenced"] == 0 {
		t.Error("no run was fenced by another: they did not run at once")
	}
	report := judge.Verdict(t, append(everything, verify.P13, verify.P14)...)
	replayed(t, &report)
}
