package pipeline

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a started command with a group of its own.
type process struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has been reaped, and its group killed
}

// spawn starts a command on a thread of its own and waits for it there. The
// kernel's parent-death signal goes out when the starting thread ends, not the
// process, and Go ends idle threads as it likes.
func spawn(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, gone: make(chan struct{})}
	cmd.SysProcAttr = attributes()
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not undone: the thread ends with this goroutine
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.reap()
		close(p.gone)
	}()
	return p, <-started
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// signal reaches the whole group: a shell passes nothing on to what it runs.
func (p *process) signal(sig syscall.Signal) {
	if p.running() {
		_ = syscall.Kill(-p.pid(), sig) // it may have gone this moment
	}
}

func (p *process) running() bool {
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// await tells whether it was gone within d.
func (p *process) await(d time.Duration) bool {
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-p.gone:
		return true
	case <-late.C:
		return false
	}
}

// end says how it ended; to be asked after gone.
func (p *process) end() string {
	s := p.cmd.ProcessState
	if s == nil {
		return "ended"
	}
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return fmt.Sprintf("was ended by signal %d (%s)", int(ws.Signal()), ws.Signal())
	}
	return fmt.Sprintf("ended with status %d", s.ExitCode())
}
