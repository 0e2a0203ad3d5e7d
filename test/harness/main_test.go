package harness

import (
	"context"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("OUTBOX_HARNESS_PARENT") != "" {
		beParent() // does not return
	}
	Main(m)
}

// within bounds a wait that should end at once.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// await fails the test if the signal does not come.
func await(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: not within 10 s", what)
	}
}

func mustBeNil(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
