package explain_test

import (
	"testing"

	"github.com/holdwall/outbox-relay/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
