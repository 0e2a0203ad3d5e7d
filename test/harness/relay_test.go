package harness

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func buildChild(t *testing.T, tags ...string) string {
	t.Helper()
	path, err := builds.build(t.Context(), "./test/harness/testdata/child", tags)
	mustBeNil(t, err)
	return path
}

func msg(want string) func(map[string]any) bool {
	return func(line map[string]any) bool { return line["msg"] == want }
}

func TestRelayLife(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://the-developers-own")
	r := StartRelay(t, buildChild(t), map[string]string{"LOG_LEVEL": "debug"}, "--flag")
	ctx := within(t, 10*time.Second)
	up, err := r.WaitLog(ctx, msg("up"))
	mustBeNil(t, err)
	want := map[string]any{"msg": "up", "health": strings.TrimPrefix(r.HealthURL(), "http://"), "secret": "", "args": []any{"--flag"}}
	if d := cmp.Diff(want, up); d != "" {
		t.Error(d)
	}

	seen := len(r.Logs())
	short, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	if _, err := r.WaitLogAfter(short, seen, msg("up")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v; want no second one", err)
	}
	mustBeNil(t, r.Term())
	_, err = r.WaitLogAfter(ctx, seen, msg("drained"))
	mustBeNil(t, err)
	code, err := r.Wait(ctx)
	mustBeNil(t, err)
	if code != 0 {
		t.Errorf("exit %d", code)
	}
	// What came last had no end of line.
	_, err = r.WaitLog(ctx, msg("no end of line"))
	mustBeNil(t, err)
	if _, err := r.WaitLog(ctx, msg("never")); !errors.Is(err, errNoSuchLine) {
		t.Errorf("got %v", err)
	}
	if r.Stdout() != "not json\n" || !strings.Contains(r.Stderr(), "drained") || !strings.Contains(r.Output(100), "not json\n") {
		t.Errorf("stdout %q, stderr %q, both %q", r.Stdout(), r.Stderr(), r.Output(100))
	}
	mustBeNil(t, r.Kill()) // of one that has gone
}

func TestRelayKill(t *testing.T) {
	t.Parallel()
	r := StartRelay(t, buildChild(t), map[string]string{"HEALTH_ADDR": "127.0.0.1:1"})
	if r.HealthURL() != "http://127.0.0.1:1" {
		t.Errorf("health at %s", r.HealthURL())
	}
	ctx := within(t, 10*time.Second)
	_, err := r.WaitLog(ctx, msg("up"))
	mustBeNil(t, err)
	mustBeNil(t, r.Pause())
	short, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	mustBeNil(t, r.Term())
	if _, err := r.Wait(short); err == nil {
		t.Fatal("a frozen relay has stopped")
	}
	mustBeNil(t, r.Kill())
	code, err := r.Wait(ctx)
	mustBeNil(t, err)
	if code != -1 || r.proc.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("exit %d", code)
	}
	await(t, "done", r.Done())
}

func TestRunAndBuildTags(t *testing.T) {
	t.Parallel()
	plain, tagged := buildChild(t), buildChild(t, "childtag")
	if plain == tagged || plain != buildChild(t) || tagged != buildChild(t, "childtag", "childtag") {
		t.Errorf("paths %s and %s", plain, tagged)
	}
	want := Output{Stdout: "stdout of [init --dry-run]\n", Stderr: "stderr, tagged false\n", ExitCode: 3}
	if d := cmp.Diff(want, RunRelay(t, plain, nil, "init", "--dry-run")); d != "" {
		t.Error(d)
	}
	if got := RunRelay(t, tagged, nil, "init"); got.Stderr != "stderr, tagged true\n" {
		t.Errorf("got %q", got.Stderr)
	}
	if _, err := builds.build(t.Context(), "./test/harness/testdata/none", nil); err == nil {
		t.Error("built nothing without an error")
	}
}
