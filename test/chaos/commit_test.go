package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// buildEnv names the build tags of the relay under test, for the builds that
// are wrong on purpose.
const buildEnv = "OUTBOX_TEST_BUILD"

// A commit whose answer is lost, a commit that never arrives, a produce whose
// answer is lost: the relay believes none of them, reads what happened, and
// goes on. Both outcomes of a doubtful commit have to occur, or the test has
// shown nothing.
func TestCommitInDoubt(t *testing.T) {
	rig.Real(t)
	kafka, proxy := harness.NewProxiedKafka(t, harness.KafkaConfig{})
	var tags []string
	rounds, patience := 3, time.Minute
	if tag := os.Getenv(buildEnv); tag != "" {
		tags = append(tags, tag)
		rounds, patience = 1, 10*time.Second // it will not catch up, or it need not
	}
	r := rig.New(t, rig.Config{Kafka: kafka, Bin: harness.BuildRelay(t, tags...)})
	r.Init(t)
	judge := r.Judge(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	warm(t, r)
	stop := r.Load(t, load.Config{Seed: seed(t), LargeRows: 500, Pause: 20 * time.Millisecond, PoisonShare: 0.002})

	// Two commits pass before each fault: a session that never commits anything
	// is given longer and longer pauses, rightly.
	outcomes := map[string]int{}
	for round := range rounds {
		for _, fault := range []struct {
			name  string
			plant func() *harness.Rule
		}{
			{"answer dropped", func() *harness.Rule {
				return proxy.DropAnswer(kmsg.EndTxn, harness.Matching(harness.Commits), harness.After(2))
			}},
			{"request dropped", func() *harness.Rule {
				return proxy.DropRequest(kmsg.EndTxn, harness.Matching(harness.Commits), harness.After(2))
			}},
		} {
			straddler := begin(t, r, fmt.Sprintf("straddler-%d-%s", round, fault.name))
			doubted, resumed, ok := doubt(t, relay, fault.plant)
			switch {
			case !ok:
			case resumed == doubted:
				outcomes["committed"]++
			case resumed == doubted-1:
				outcomes["not committed"]++
			default:
				t.Errorf("%s: checkpoint %v in doubt, resumed at %v", fault.name, doubted, resumed)
			}
			straddler(t)
		}
		// A lost answer to a produce is the idempotent producer's to mend: no
		// doubt, no new session.
		rule := proxy.DropAnswer(kmsg.Produce)
		await(t, rule.Seen(), "produce answer")
	}
	totals := stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r.AwaitCaughtUp(ctx, t)
	t.Logf("outcomes of the doubtful commits: %v; load: %s", outcomes, totals)
	if outcomes["committed"] == 0 || outcomes["not committed"] == 0 {
		t.Errorf("only one outcome was seen: %v", outcomes)
	}
	judge.Verdict(t, everything...)
}

// warm has the relay meet every topic before the first fault: a look-up that
// shares the connection with the EndTxn would fail with it, and first.
func warm(t *testing.T, r *rig.Rig) {
	t.Helper()
	r.Database.Exec(t, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, kafka_partition)
	    VALUES ('order', 'warm', 'Good', '{}', NULL), ('order', 'warm', 'Poison', '{}', 1000)`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r.AwaitCaughtUp(ctx, t)
}

// doubt plants a fault of EndTxn and returns the checkpoint whose commit was
// in doubt, and the one that the next session found. What is wrong is noted
// and not fatal: the verdict on the data is wanted all the same.
func doubt(t *testing.T, relay *harness.Relay, plant func() *harness.Rule) (doubted, resumed float64, ok bool) {
	t.Helper()
	seen := len(relay.Logs())
	rule := plant()
	await(t, rule.Seen(), "EndTxn")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ended, err := relay.WaitLogAfter(ctx, seen, rig.Message("session ended"))
	if err != nil {
		t.Errorf("the session did not end: %v", err)
		return 0, 0, false
	}
	text, _ := ended["error"].(string)
	_, number, found := strings.Cut(text, "commit checkpoint ")
	if ended["code"] != "OBX-5011" || !found {
		t.Errorf("session ended with %v, want OBX-5011: %s", ended["code"], text)
		return 0, 0, false
	}
	number, _, _ = strings.Cut(number, ":")
	if doubted, err = strconv.ParseFloat(number, 64); err != nil {
		t.Errorf("no checkpoint number in %q", text)
		return 0, 0, false
	}
	streaming, err := relay.WaitLogAfter(ctx, seen, rig.Message("streaming"))
	if err != nil {
		t.Errorf("no new session: %v", err)
		return 0, 0, false
	}
	resumed, ok = streaming["checkpoint"].(float64)
	return doubted, resumed, ok
}

// begin opens a transaction, writes a row, and returns what commits it. The
// row's own LSN then lies below positions that are published before it
// commits: who filters by row LSN loses it.
func begin(t *testing.T, r *rig.Rig, key string) func(*testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	tx, err := r.Conn(t).Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	insert(t, tx, key)
	return func(t *testing.T) {
		if err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func insert(t *testing.T, tx pgx.Tx, key string) {
	t.Helper()
	_, err := tx.Exec(t.Context(), `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload) VALUES ('order', $1, 'Late', '{}')`, key)
	if err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, seen <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-seen:
	case <-time.After(20 * time.Second):
		t.Fatalf("no %s passed the proxy", what)
	}
}

// The builds that are wrong on purpose turn the test above red, each for the
// reason that it is wrong for. A rig that stays green with them proves nothing.
func TestWrongBuildsTurnRed(t *testing.T) {
	rig.Real(t)
	for _, tc := range []struct {
		tag string
		red []string // one of these has to be in the output
	}{
		{"wrong_trust_commit", []string{"P2   no duplicate"}},
		{"wrong_confirm_early", []string{"P10  slot behind checkpoint", "OBX-4008"}},
		{"wrong_row_lsn", []string{"P1   no loss"}},
	} {
		t.Run(tc.tag, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestCommitInDoubt$", "-test.v")
			cmd.Env = append(os.Environ(), buildEnv+"="+tc.tag)
			out, err := cmd.CombinedOutput()
			if err == nil && strings.Contains(string(out), "--- SKIP: TestCommitInDoubt") {
				t.Skip("there are no servers to prove it on") // noted by the run itself
			}
			if err == nil {
				t.Fatalf("stays green:\n%s", out)
			}
			for _, sign := range tc.red {
				for line := range strings.Lines(string(out)) {
					if strings.Contains(line, sign) && !strings.HasSuffix(strings.TrimSpace(line), "ok") {
						t.Logf("red: %s", strings.TrimSpace(line))
						return
					}
				}
			}
			t.Errorf("red, but not for one of %q:\n%s", tc.red, out)
		})
	}
}
