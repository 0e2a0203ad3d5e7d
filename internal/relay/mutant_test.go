package relay

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/internal/mutant"
)

func mutated() bool { return mutant.ConfirmEarly || mutant.TrustCommitError }

// A model that cannot fail proves nothing: with a known mistake built in, its
// tests must turn red. By hand:
//
//	go test -tags wrong_confirm_early -run TestModel ./internal/relay
//	go test -tags wrong_trust_commit -run TestModel ./internal/relay
func TestMutantsTurnTheModelRed(t *testing.T) {
	if mutated() {
		t.Skip("this build is a mutant itself")
	}
	if testing.Short() {
		t.Skip("compiles this package twice")
	}
	for tag, symptom := range map[string]string{
		"wrong_confirm_early": "and the checkpoint is at",
		"wrong_trust_commit":  "rows (-committed +published)",
	} {
		t.Run(tag, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "go", "test", "-short", "-count=1", "-vet=off", "-tags", tag, "-run", "^TestModel", ".")
			out, err := cmd.CombinedOutput()
			switch {
			case err == nil:
				t.Errorf("the tests pass with the mistake built in:\n%s", out)
			case !strings.Contains(string(out), "--- FAIL: TestModel"):
				t.Errorf("the tests did not run: %v\n%s", err, out)
			case !strings.Contains(string(out), symptom):
				t.Errorf("the tests fail, but not with %q:\n%s", symptom, out)
			}
		})
	}
}
