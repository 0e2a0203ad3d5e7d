//go:build unix && !linux

package harness

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// bequeath does nothing here: only Linux passes the death of a parent on. A
// test binary that is killed leaves its servers running on these systems.
func bequeath(*syscall.SysProcAttr, syscall.Signal) {}

func children(pid int) ([]int, error) {
	out, err := exec.Command("ps", "-A", "-o", "ppid=", "-o", "pid=").Output()
	if err != nil {
		return nil, err
	}
	var kids []int
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) != 2 || fields[0] != strconv.Itoa(pid) {
			continue
		}
		if kid, err := strconv.Atoi(fields[1]); err == nil {
			kids = append(kids, kid)
		}
	}
	return kids, nil
}

// end kills a process that is not our child. There is no portable way to be
// told of the death of such a process, so it is asked for.
func end(ctx context.Context, pid int) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := syscall.Kill(pid, syscall.SIGKILL); errors.Is(err, syscall.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of process %d: %w", pid, context.Cause(ctx))
		}
	}
}
