package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// builds remembers what this test binary has built. It is a variable of the
// package because it is shared by tests that know nothing of each other; Main
// removes the folder.
var builds = builder{paths: map[string]string{}}

type builder struct {
	mu    sync.Mutex
	dir   string
	paths map[string]string // by package and tags
}

// BuildRelay builds ./cmd/outbox-relay with build tags and returns the path of
// the binary. The tag "race" stands for the race detector. Each set of tags is
// built once per test binary, which must call Main.
func BuildRelay(t testing.TB, tags ...string) string {
	t.Helper()
	if !mainRuns {
		t.Fatal(errNoMain)
	}
	path, err := builds.build(t.Context(), "./cmd/outbox-relay", tags)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *builder) build(ctx context.Context, pkg string, tags []string) (string, error) {
	tags = slices.Compact(slices.Sorted(slices.Values(tags)))
	key := pkg + " " + strings.Join(tags, ",")
	b.mu.Lock()
	defer b.mu.Unlock()
	if path, ok := b.paths[key]; ok {
		return path, nil
	}
	root, err := repoRoot()
	if err != nil {
		return "", err
	}
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "outbox-bin-"); err != nil {
			return "", err
		}
	}
	path := filepath.Join(b.dir, strings.Join(append([]string{filepath.Base(pkg)}, tags...), "-"))
	args := []string{"build", "-o", path}
	if i := slices.Index(tags, "race"); i >= 0 {
		tags = slices.Delete(slices.Clone(tags), i, i+1)
		args = append(args, "-race")
	}
	if len(tags) > 0 {
		args = append(args, "-tags", strings.Join(tags, ","))
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", key, err, out)
	}
	b.paths[key] = path
	return path, nil
}

func (b *builder) remove() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dir == "" {
		return nil
	}
	err := os.RemoveAll(b.dir)
	b.dir, b.paths = "", map[string]string{}
	if err != nil {
		return errors.Join(errors.New("remove what was built"), err)
	}
	return nil
}
