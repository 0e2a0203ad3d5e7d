//go:build unix && !linux

package pipeline

import (
	"os"
	"syscall"
)

// attributes give the child a group of its own, so that the terminal's Ctrl-C
// reaches only the pipeline. There is no parent-death signal: a child outlives
// a pipeline that is killed with SIGKILL until it notices the end of its input.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func (p *process) reap() {
	_ = p.cmd.Wait() // how it ended is in the state
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
}

// unread is not known here: whatever was written counts as read.
func unread(*os.File) int64 { return 0 }
