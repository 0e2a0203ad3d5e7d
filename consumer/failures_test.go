package consumer

import (
	"testing"
	"time"
)

// The first failure is told, and then one in ten seconds with the number of the
// others.
func TestFailuresAreThinnedOut(t *testing.T) {
	var f failures
	start := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		after  time.Duration
		unsaid int
		ok     bool
	}{
		{0, 0, true},
		{time.Second, 0, false},
		{2 * time.Second, 0, false},
		{failuresEvery, 2, true},
		{failuresEvery + 1, 0, false},
		{3 * failuresEvery, 1, true},
		{5 * failuresEvery, 0, true},
	} {
		if unsaid, ok := f.say(start.Add(c.after)); unsaid != c.unsaid || ok != c.ok {
			t.Errorf("after %s: %d, %t", c.after, unsaid, ok)
		}
	}
}
