// Package chaos kills the relay in every way that a process can die, and has
// the checker look at what is left. The judge's properties are those of
// package verify; a run is clean only if all of them had facts and none is
// broken.
package chaos

import (
	"testing"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// everything that a kill can break.
var everything = []verify.Property{
	verify.P1, verify.P2, verify.P3, verify.P4, verify.P7, verify.P8, verify.P9, verify.P10, verify.P11,
}
