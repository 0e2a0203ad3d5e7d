// Package ha takes the leader away from a set of replicas, in every way in
// which that happens, and has the checker look at what the next leader makes of
// it: a kill, a freeze, a network that is cut, a Postgres that fails over.
package ha

import (
	"os"
	"strconv"
	"testing"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// everything that a change of leaders can break.
var everything = []verify.Property{
	verify.P1, verify.P2, verify.P3, verify.P4, verify.P7, verify.P8, verify.P9, verify.P10, verify.P11,
}

// full tells whether everything is to be tried; in CI what another test covers
// in good part is left out for time.
func full() bool { return os.Getenv("OUTBOX_HA_FULL") != "" }

// times is how often a loop goes round: a few times in CI, more elsewhere.
func times(t *testing.T, variable string, few int) int {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}
