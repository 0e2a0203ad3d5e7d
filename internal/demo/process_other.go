//go:build unix && !linux

package demo

import (
	"os/exec"
	"syscall"
	"time"
)

// bind gives a child a group of its own, so that the terminal's Ctrl-C reaches
// only the demo. Without a parent-death signal a relay child outlives a demo
// that is killed with SIGKILL; Postgres does not, its supervisor reads a pipe.
func bind(cmd *exec.Cmd, as *identity, _ syscall.Signal) {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if as != nil {
		attr.Credential = as.credential()
	}
	cmd.SysProcAttr = attr
}

func processStart() time.Time { return time.Now() }
