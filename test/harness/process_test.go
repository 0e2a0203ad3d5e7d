package harness

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// beParent is this test binary run by TestChildDiesWithParent: it starts a
// child through the harness and is then killed.
func beParent() {
	cmd := exec.Command("sleep", "600")
	cmd.Stdout = os.Stdout // held open for as long as the child lives
	p, err := start(cmd, syscall.SIGKILL)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv("OUTBOX_HARNESS_PARENT") == "freeze" {
		err = p.signal(syscall.SIGSTOP)
	}
	fmt.Println("started", err)
	<-p.done
	os.Exit(1)
}

func TestChildDiesWithParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux passes the death of a parent on")
	}
	for _, mode := range []string{"run", "freeze"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			mustBeNil(t, err)
			defer r.Close()
			parent := exec.Command(os.Args[0])
			parent.Env = append(os.Environ(), "OUTBOX_HARNESS_PARENT="+mode)
			parent.Stdout, parent.Stderr = w, os.Stderr
			mustBeNil(t, parent.Start())
			w.Close()

			out := bufio.NewReader(r)
			line, err := out.ReadString('\n')
			mustBeNil(t, err)
			if strings.TrimSpace(line) != "started <nil>" {
				t.Fatalf("the parent says %q", line)
			}
			mustBeNil(t, parent.Process.Kill())
			parent.Wait()

			// The pipe ends when the last process that holds it has gone.
			mustBeNil(t, r.SetReadDeadline(time.Now().Add(10*time.Second)))
			if rest, err := io.ReadAll(out); err != nil {
				t.Fatalf("the child lives on: %v %q", err, rest)
			}
		})
	}
}

func TestEndOfStranger(t *testing.T) {
	t.Parallel()
	p, err := start(exec.Command("sleep", "600"), syscall.SIGKILL)
	mustBeNil(t, err)
	mustBeNil(t, end(within(t, 10*time.Second), p.pid()))
	await(t, "reaped", p.done)
	if p.running() {
		t.Error("a process that has ended is said to run")
	}
	mustBeNil(t, p.kill()) // again, of one that has gone
}

func TestStartOfNothing(t *testing.T) {
	t.Parallel()
	if _, err := start(exec.Command("/nonexistent/program"), syscall.SIGKILL); err == nil {
		t.Fatal("no error")
	}
}
