package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// bequeath makes the kernel send sig to the child when its parent dies. This
// was chosen over a watcher on a pipe because nothing has to be alive for it:
// it holds for a SIGKILL of the test binary, for the panic of a test timeout
// and for a child that is stopped, and there is no second process that could
// die first or signal a recycled pid. Go sets it after the change of user,
// which would clear it, and checks that the parent did not die in between.
func bequeath(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// children lists by parent and not by process group: each Postgres backend
// makes itself the leader of its own session.
func children(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var kids []int
	for _, e := range entries {
		kid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // gone since ReadDir
		}
		// pid (name) state ppid ...; the name may hold blanks and brackets.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			kids = append(kids, kid)
		}
	}
	return kids, nil
}

// end kills a process that is not our child and returns when it has gone. A
// pidfd is readable from the moment of death on, whether or not anyone reaps.
func end(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the end of process %d: %w", pid, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the end of process %d: %w", pid, context.Cause(ctx))
		}
	}
}
