package eventstore_test

import (
	"testing"

	"github.com/holdwall/outbox-relay/test/harness"
)

// harness.Main looks for goroutines left over when all tests are done.
func TestMain(m *testing.M) { harness.Main(m) }
