package demo

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func executable(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func TestPostgresComesAndGoes(t *testing.T) {
	for _, fast := range []bool{false, true} {
		t.Run(map[bool]string{false: "durable", true: "fast"}[fast], func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			began := time.Now()
			p, err := startPostgres(ctx, executable(t), supervisorSpec{Fast: fast}, func(s string) { t.Log(s) })
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("up after %s: %s", time.Since(began), p.about)
			conn, err := pgx.Connect(ctx, p.url)
			if err != nil {
				t.Fatal(err)
			}
			var level, fsync string
			if err := conn.QueryRow(ctx, "SELECT current_setting('wal_level'), current_setting('fsync')").Scan(&level, &fsync); err != nil {
				t.Fatal(err)
			}
			if want := map[bool]string{false: "on", true: "off"}[fast]; level != "logical" || fsync != want {
				t.Errorf("wal_level=%s fsync=%s, want logical and %s", level, fsync, want)
			}
			conn.Close(ctx)
			postmaster := postmasterOf(t, p)
			began = time.Now()
			if err := p.stop(); err != nil {
				t.Error(err)
			}
			t.Logf("down after %s", time.Since(began))
			expectGone(t, p.dir, postmaster)
			if err := p.stop(); err != nil {
				t.Errorf("second stop: %v", err)
			}
		})
	}
}

// A demo that is killed closes the supervisor's input without a word, and
// nothing else.
func TestPostgresGoesWithoutGoodbye(t *testing.T) {
	p, err := startPostgres(context.Background(), executable(t), supervisorSpec{}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	postmaster := postmasterOf(t, p)
	p.stdin.Close()
	if err := p.child.ended(); err != nil {
		t.Error(err)
	}
	expectGone(t, p.dir, postmaster)
}

func TestPostgresReportsItsDeath(t *testing.T) {
	p, err := startPostgres(context.Background(), executable(t), supervisorSpec{}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(postmasterOf(t, p), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var status *exec.ExitError
	if err := p.child.ended(); !errors.As(err, &status) {
		t.Errorf("supervisor ended with %v, want an exit status", err)
	}
	if _, err := os.Stat(p.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is still there", p.dir)
	}
}

func TestPostgresStartIsCalledOff(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	_, err := startPostgres(ctx, executable(t), supervisorSpec{}, func(string) {})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func postmasterOf(t *testing.T, p *postgres) int {
	t.Helper()
	raw, err := os.ReadFile(p.dir + "/data/postmaster.pid")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func expectGone(t *testing.T, dir string, pid int) {
	t.Helper()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is still there", dir)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("postmaster %d is still there: %v", pid, err)
	}
}
