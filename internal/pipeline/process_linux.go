package pipeline

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes give the child a group of its own, so that the terminal's Ctrl-C
// reaches only the pipeline, which then stops it in order. The kernel kills it
// if the pipeline is killed.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// reap waits for the end. What is left of the group is killed before the
// process is collected: until then its number, which is the group's, cannot be
// given to anybody else.
func (p *process) reap() {
	for {
		err := unix.Waitid(unix.P_PID, p.pid(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	_ = p.cmd.Wait() // how it ended is in the state
}

// unread is how many bytes wait in a pipe. What a process never read is there
// still after its end.
func unread(pipe *os.File) (n int64) {
	conn, err := pipe.SyscallConn()
	if err != nil {
		return 0
	}
	_ = conn.Control(func(fd uintptr) {
		if got, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
			n = int64(got)
		}
	})
	return n
}
