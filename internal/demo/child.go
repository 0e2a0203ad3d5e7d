package demo

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
)

// child is a process that was started and is being waited for.
type child struct {
	*os.Process
	gone chan struct{} // closed once it has ended and all its output was read
	err  error         // how it ended; to be read after gone
}

// spawn starts a child on a thread of its own and waits for it there. The
// kernel's parent-death signal goes out when the starting thread ends, not
// the process, and Go ends idle threads as it likes.
func spawn(cmd *exec.Cmd) (*child, error) {
	c := &child{gone: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not undone: the thread ends with this goroutine
		err := cmd.Start()
		c.Process = cmd.Process
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.gone)
		}
	}()
	return c, <-started
}

// ended waits for the end.
func (c *child) ended() error {
	<-c.gone
	return c.err
}

// tail keeps the last lines of a child's output, for the day it dies.
type tail struct {
	limit int

	mu    sync.Mutex
	lines []string
	rest  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rest = append(t.rest, p...)
	for {
		line, rest, ok := bytes.Cut(t.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		t.lines = append(t.lines, string(line))
		t.rest = rest
		if len(t.lines) > t.limit {
			t.lines = t.lines[1:]
		}
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(append(t.lines[:len(t.lines):len(t.lines)], string(t.rest)), "\n")
}

func (t *tail) last() string { return lastLine(t.String()) }
