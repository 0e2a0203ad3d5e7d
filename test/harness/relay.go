package harness

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

// Relay is one outbox-relay as a child process.
type Relay struct {
	proc           *process
	book           *logBook
	stdout, stderr *stream
	health         string
}

// StartRelay runs bin serve with the environment given and nothing else of the
// test's own but what any program needs: a DATABASE_URL of the developer must
// not reach it. HEALTH_ADDR is a free port unless given. At the end of the
// test the relay is killed if it still runs; if the test failed, its last
// lines are in the test's log.
func StartRelay(t testing.TB, bin string, env map[string]string, args ...string) *Relay {
	t.Helper()
	return StartCommand(t, bin, env, append([]string{"serve"}, args...)...)
}

// StartCommand is StartRelay for any command.
func StartCommand(t testing.TB, bin string, env map[string]string, args ...string) *Relay {
	t.Helper()
	env = maps.Clone(env)
	if env == nil {
		env = map[string]string{}
	}
	if env["HEALTH_ADDR"] == "" {
		ports, err := freePorts(1)
		if err != nil {
			t.Fatal(err)
		}
		env["HEALTH_ADDR"] = hostPort(ports[0])
	}
	if env["ADMIN_ADDR"] == "" {
		env["ADMIN_ADDR"] = "off" // replicas of one test would want the same port
	}
	r := &Relay{book: newLogBook(), health: "http://" + env["HEALTH_ADDR"]}
	r.stdout, r.stderr = &stream{book: r.book}, &stream{book: r.book}

	cmd := exec.Command(bin, args...)
	cmd.Env = childEnv(env)
	cmd.Stdout, cmd.Stderr = r.stdout, r.stderr
	// A descendant that holds the pipes open must not hold the test up.
	cmd.WaitDelay = 5 * time.Second
	var err error
	r.proc, err = start(cmd, syscall.SIGKILL, func() { r.book.end(r.stdout, r.stderr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("relay, pid %d, exit %d:\n%s", r.PID(), r.proc.cmd.ProcessState.ExitCode(), r.Output(100))
		}
	})
	return r
}

// Output is what a command that ends by itself left behind.
type Output struct {
	Stdout, Stderr string
	ExitCode       int // -1: ended by a signal
}

// RunRelay runs any command of the binary to its end, such as init.
func RunRelay(t testing.TB, bin string, env map[string]string, args ...string) Output {
	t.Helper()
	return KillRelay(t, bin, env, nil, args...)
}

// KillRelay is RunRelay, and ends the command with SIGKILL when the channel
// has something to say before it ends by itself.
func KillRelay(t testing.TB, bin string, env map[string]string, now <-chan time.Time, args ...string) Output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Env = childEnv(env)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	p, err := start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-now:
		if err := p.kill(); err != nil {
			t.Error(err)
		}
	case <-p.done:
	case <-t.Context().Done():
	}
	if err := p.wait(t.Context()); err != nil {
		if killed := p.kill(); killed != nil {
			t.Log(killed)
		}
		t.Fatalf("%v\n%s%s", err, &stdout, &stderr)
	}
	return Output{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: cmd.ProcessState.ExitCode()}
}

// childEnv adds what a program needs to run at all, and GORACE and GOCOVERDIR
// for binaries built to be watched.
func childEnv(env map[string]string) []string {
	var list []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "TZ", "XDG_CACHE_HOME", "GORACE", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok && env[name] == "" {
			list = append(list, name+"="+value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// PID returns the process id.
func (r *Relay) PID() int { return r.proc.pid() }

// HealthURL returns the base of the health endpoints, without a slash at the
// end.
func (r *Relay) HealthURL() string { return r.health }

// Kill ends the relay with SIGKILL and returns when it has gone.
func (r *Relay) Kill() error { return r.proc.kill() }

// Term asks the relay to drain and stop, and does not wait.
func (r *Relay) Term() error { return r.proc.signal(syscall.SIGTERM) }

// Pause freezes the relay.
func (r *Relay) Pause() error { return r.proc.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (r *Relay) Resume() error { return r.proc.signal(syscall.SIGCONT) }

// Done is closed when the relay has gone and all its output is here.
func (r *Relay) Done() <-chan struct{} { return r.proc.done }

// Wait returns the exit code, or -1 if a signal ended the relay.
func (r *Relay) Wait(ctx context.Context) (int, error) {
	if err := r.proc.wait(ctx); err != nil {
		return 0, err
	}
	return r.proc.cmd.ProcessState.ExitCode(), nil
}

// Logs returns the JSON lines so far. Numbers are float64.
func (r *Relay) Logs() []map[string]any {
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	return slices.Clone(r.book.lines)
}

// Output returns the last n lines of both streams, JSON or not.
func (r *Relay) Output(n int) string { return r.book.tail(n) }

// Stdout returns all that came on standard output.
func (r *Relay) Stdout() string { return r.stdout.text() }

// Stderr returns all that came on standard error.
func (r *Relay) Stderr() string { return r.stderr.text() }

// WaitLog returns the first JSON line since the start that matches, as soon as
// it is there. It is an error if the relay ends without one.
func (r *Relay) WaitLog(ctx context.Context, match func(map[string]any) bool) (map[string]any, error) {
	return r.WaitLogAfter(ctx, 0, match)
}

// WaitLogAfter is WaitLog for lines after the first n: take n from len(Logs())
// before what should cause the line.
func (r *Relay) WaitLogAfter(ctx context.Context, n int, match func(map[string]any) bool) (map[string]any, error) {
	line, err := r.book.wait(ctx, n, match)
	if err != nil {
		return nil, fmt.Errorf("relay, pid %d: %w", r.PID(), err)
	}
	return line, nil
}
