//go:build crashpoints

package crash

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Enabled tells whether this build can kill itself at a named point.
const Enabled = true

// The plan is read once: the environment of a process does not change under it.
var (
	target, left = plan(os.Getenv("OUTBOX_CRASH"))
	passes       atomic.Int64
)

func plan(s string) (string, int64) {
	name, count, ok := strings.Cut(s, ":")
	if !ok {
		return name, 1
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		panic("OUTBOX_CRASH wants name:n, got " + s)
	}
	return name, n
}

// Point kills the process if OUTBOX_CRASH names this point and this pass.
func Point(name string) {
	if name != target || passes.Add(1) != left {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // SIGKILL is delivered asynchronously: do not run on meanwhile
}
