// Package bench measures throughput, memory and latency of the real binary
// against a named baseline: pg_recvlogical with pgoutput into /dev/null, on the
// same backlog, in alternation. What counts is the ratio; absolute times are
// noise. Nothing here fails because of a time: the figures are printed, and
// docs/performance.md says on what they were measured.
package bench

import (
	"testing"

	"github.com/holdwall/outbox-relay/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
