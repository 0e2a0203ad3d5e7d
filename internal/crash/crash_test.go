package crash

import (
	"slices"
	"testing"
)

// Every point is named once, and passing them all is nothing in a process that
// was not told to die.
func TestPoints(t *testing.T) {
	points := Points()
	for i, p := range points {
		if p == "" || slices.Contains(points[:i], p) {
			t.Errorf("point %q is empty or named twice", p)
		}
		Point(p)
	}
}
