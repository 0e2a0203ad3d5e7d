// Package e2e holds the delivery claims against real Postgres and real Apache
// Kafka, with the real binary.
package e2e

import (
	"testing"

	"github.com/holdwall/outbox-relay/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
