package demo

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The real thing: the program as it is shipped, as root and as an ordinary
// user.
func TestProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	dir, err := os.MkdirTemp("", "outbox-program-") // a test's own folder is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "outbox-relay")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/outbox-relay").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	users := map[string]*identity{"as we are": nil}
	if as := unprivileged(); as != nil {
		users["unprivileged"] = as
	}
	for name, as := range users {
		t.Run(name, func(t *testing.T) {
			temp := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if err := errors.Join(os.Mkdir(temp, 0o755), as.own(temp)); err != nil {
				t.Fatal(err)
			}
			t.Run("full run", func(t *testing.T) { programRuns(t, program, temp, as) })
			t.Run("interrupt", func(t *testing.T) { programStops(t, program, temp, as) })
			left, err := os.ReadDir(temp)
			// A Postgres that had to be fetched stays in the user's cache.
			left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return e.Name() == ".cache" })
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func program(ctx context.Context, path, temp string, as *identity, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, append([]string{"demo", "--ci"}, args...)...)
	cmd.Dir = temp
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, "HOME="+temp)
	bind(cmd, as, 0)
	return cmd
}

func programRuns(t *testing.T, path, temp string, as *identity) {
	var out bytes.Buffer
	cmd := program(t.Context(), path, temp, as, "--duration", "8s")
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	t.Logf("%s", out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`0 lost, 0 duplicated, 0 reordered`, `relay killed +[1-9]`, `dead letters +[1-9]`, `rows rolled back +[1-9]`, `\d records of the first attempt stay hidden`} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("output lacks %q", want)
		}
	}
	m := regexp.MustCompile(`first event in Kafka +([\d.]+) s`).FindStringSubmatch(out.String())
	if m == nil {
		t.Fatal("output lacks the time to the first event")
	}
	// The bar is 3 s on a machine with nothing else to do, which one that runs
	// tests is not.
	if s, err := strconv.ParseFloat(m[1], 64); err != nil || s > 10 {
		t.Errorf("first event after %s s", m[1])
	}
}

func programStops(t *testing.T, path, temp string, as *identity) {
	cmd := program(t.Context(), path, temp, as)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), "committed ") {
		n, err := out.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v\n%s%s", err, seen.String(), errs.String())
		}
	}
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _, err := seen.ReadFrom(out); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s%s", err, seen.String(), errs.String())
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("stopping took %s", took)
	}
}
