package mutant

import (
	"os/exec"
	"strings"
	"testing"
)

// tags turn the mistakes on; see the package comment.
var tags = map[string]func() bool{
	"wrong_confirm_early": func() bool { return ConfirmEarly },
	"wrong_trust_commit":  func() bool { return TrustCommitError },
	"wrong_row_lsn":       func() bool { return FilterByRowLSN },
}

// The ordinary build has none of these mistakes in it.
func TestMistakesAreOff(t *testing.T) {
	for tag, on := range tags {
		if on() {
			t.Errorf("%s is built in", tag)
		}
	}
}

// Each file belongs to exactly one build, so a new mistake cannot slip into the
// ordinary one.
func TestFiles(t *testing.T) {
	files := func(tag string) string {
		t.Helper()
		out, err := exec.Command("go", "list", "-tags", tag, "-f", "{{.GoFiles}}", ".").Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		return string(out)
	}
	if got := files(""); strings.Contains(got, "_on.go") || strings.Count(got, "_off.go") != len(tags) {
		t.Errorf("the ordinary build has %s", got)
	}
	for tag := range tags {
		if got := files(tag); strings.Count(got, "_on.go") != 1 || strings.Count(got, "_off.go") != len(tags)-1 {
			t.Errorf("the build with %s has %s", tag, got)
		}
	}
}
