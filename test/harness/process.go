package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is one running child. It dies with the test binary.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the child has been reaped
	err  error         // what Wait said; read after done
}

// start runs cmd. lastWill is the signal the child gets if the test binary
// dies without stopping it; after runs when the child has gone, before done.
//
// The child gets its own process group: an interrupt typed at the terminal
// goes to the test binary alone, which then stops its servers in order.
func start(cmd *exec.Cmd, lastWill syscall.Signal, after ...func()) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	bequeath(cmd.SysProcAttr, lastWill)

	started := make(chan error)
	go func() {
		// The kernel counts the thread that forked as the parent. Nothing but
		// this goroutine may end that thread, and it stays until the child has
		// gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		for _, f := range after {
			f()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal is no error if the child has gone already.
func (p *process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %v to %s: %w", sig, p.cmd.Path, err)
	}
	return nil
}

// wait returns when the child has gone or ctx has ended.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s: %w", p.cmd.Path, context.Cause(ctx))
	}
}

// kill returns when the child has gone. SIGKILL needs no help to end a
// process, not even of one that is stopped, so there is no deadline.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}
