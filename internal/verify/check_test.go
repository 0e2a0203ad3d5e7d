package verify_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/holdwall/outbox-relay/internal/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// seeded is a world that is the same every time.
func seeded(n int, seed uint64) verify.Evidence {
	return newWorld(n, newRand(seed).IntN).ev
}

func TestCleanEvidencePasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ev := newWorld(rapid.IntRange(0, 60).Draw(t, "transactions"), func(n int) int {
			return rapid.IntRange(0, n-1).Draw(t, "choice")
		}).ev
		report := verify.Check(ev)
		if report.Err() != nil {
			t.Fatal(report.String())
		}
	})
}

func TestEveryPropertyIsChecked(t *testing.T) {
	report := verify.Check(seeded(200, 1))
	if err := report.Require(report.Unchecked()...); err != nil {
		t.Error(err)
	}
	if n := len(report.Findings); n != 15 {
		t.Errorf("%d findings, want 15", n)
	}
	t.Log("\n" + report.String())
}

// TestEveryMutationIsNoticed plants each fault into evidence of the same kind
// that passes clean, on seeded worlds of many sizes.
func TestEveryMutationIsNoticed(t *testing.T) {
	for _, m := range verify.Mutations() {
		t.Run(strings.ReplaceAll(m.Name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			planted := 0
			for seed := range uint64(50) {
				for _, size := range []int{3, 12, 60} {
					rng := rand.New(rand.NewPCG(seed, 2))
					clean := seeded(size, seed)
					broken, ok := verify.Mutate(clean, m, rng)
					if seed < 3 {
						if diff := cmp.Diff(seeded(size, seed), clean, cmp.Comparer(sameName)); diff != "" {
							t.Fatalf("the original was changed:\n%s", diff)
						}
					}
					if !ok {
						continue
					}
					planted++
					report := verify.Check(broken)
					f := report.Of(m.Breaks)
					if f.Violations == 0 {
						t.Fatalf("seed %d, %d transactions: %s did not notice\n%s", seed, size, m.Breaks, report.String())
					}
					if m.Alone {
						for _, other := range report.Findings {
							if other.Violations > 0 && other.Property != m.Breaks {
								t.Fatalf("seed %d, %d transactions: %s noticed as well\n%s", seed, size, other.Property, report.String())
							}
						}
					}
					if f.First.What == "" || report.Err() == nil {
						t.Fatalf("seed %d: the finding says nothing", seed)
					}
				}
			}
			if planted < 30 {
				t.Errorf("planted only %d times", planted)
			}
		})
	}
}

func sameName(a, b verify.Name) bool { return a == b }

// TestMutationsOnRandomEvidence does the same on evidence that rapid chooses,
// so that a failure is made small.
func TestMutationsOnRandomEvidence(t *testing.T) {
	all := verify.Mutations()
	rapid.Check(t, func(t *rapid.T) {
		ev := newWorld(rapid.IntRange(1, 25).Draw(t, "transactions"), func(n int) int {
			return rapid.IntRange(0, n-1).Draw(t, "choice")
		}).ev
		m := all[rapid.IntRange(0, len(all)-1).Draw(t, "mutation")]
		broken, ok := verify.Mutate(ev, m, rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3)))
		if !ok {
			t.Skip(m.Name)
		}
		report := verify.Check(broken)
		if report.Of(m.Breaks).Violations == 0 {
			t.Fatalf("%s: %s did not notice\n%s", m.Name, m.Breaks, report.String())
		}
	})
}

func TestReport(t *testing.T) {
	ev := seeded(40, 5)
	clean := verify.Check(ev)
	if err := clean.Err(); err != nil {
		t.Fatal(err)
	}
	ev.Samples = nil
	unsampled := verify.Check(ev)
	if err := unsampled.Err(); err != nil {
		t.Error(err)
	}
	if err := unsampled.Require(verify.P10); err == nil {
		t.Error("a run without samples passed P10")
	}
	if text := unsampled.String(); !strings.Contains(text, "not checked") {
		t.Errorf("the report does not say what was not checked:\n%s", text)
	}

	broken, _ := verify.Mutate(ev, mutation(t, "drop a row"), rand.New(rand.NewPCG(1, 1)))
	report := verify.Check(broken)
	loss := report.Of(verify.P1)
	if n := len(loss.First.Neighbours); n < 5 || n > 21 {
		t.Errorf("%d neighbours", n)
	}
	var out bytes.Buffer
	if err := report.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	var back verify.Report
	if err := json.Unmarshal(out.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(report, back); diff != "" {
		t.Errorf("the report as JSON differs:\n%s", diff)
	}
	t.Log("\n" + report.String())
}

func mutation(t *testing.T, name string) verify.Mutation {
	t.Helper()
	for _, m := range verify.Mutations() {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no mutation %q", name)
	panic("unreachable")
}

func TestEmptyEvidence(t *testing.T) {
	report := verify.Check(verify.Evidence{})
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	if n := len(report.Unchecked()); n != 15 {
		t.Errorf("%d of 15 properties say that they had no facts", n)
	}
}
