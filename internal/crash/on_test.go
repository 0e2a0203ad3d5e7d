//go:build crashpoints

package crash

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// A process dies at the named point, at the named pass, and no earlier.
func TestKill(t *testing.T) {
	if n := os.Getenv("OUTBOX_CRASH_TEST_PASSES"); n != "" {
		for range len(n) {
			Point(AfterEnd)
			Point(ReadBack)
		}
		return
	}
	for passes, dies := range map[string]bool{"12": false, "123": true, "1234": true} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "OUTBOX_CRASH="+AfterEnd+":3", "OUTBOX_CRASH_TEST_PASSES="+passes)
		err := cmd.Run()
		var exit *exec.ExitError
		killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if killed != dies {
			t.Errorf("after %d passes: %v", len(passes), err)
		}
	}
}
