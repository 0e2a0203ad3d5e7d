package demo

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bind ties a child to the thread that starts it: the kernel sends sig when
// that thread ends, so a killed parent leaves nothing behind. A group of its
// own keeps the terminal's Ctrl-C away from it: the demo stops its children in
// order.
func bind(cmd *exec.Cmd, as *identity, sig syscall.Signal) {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: sig}
	if as != nil {
		attr.Credential = as.credential()
	}
	cmd.SysProcAttr = attr
}

// processStart asks the kernel when this process began, so that the time to
// the first event includes loading the program. The answer is good to 10 ms.
func processStart() time.Time {
	now := time.Now()
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return now
	}
	// Fields are counted after the command name, which may hold spaces.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return now
	}
	ticks, err := strconv.ParseInt(string(fields[19]), 10, 64)
	if err != nil {
		return now
	}
	var boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return now
	}
	const userHz = 100 // fixed in the kernel's interface to user space
	age := time.Duration(boot.Nano()) - time.Duration(ticks)*time.Second/userHz
	if age < 0 || age > time.Minute {
		return now
	}
	return now.Add(-age)
}
