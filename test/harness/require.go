package harness

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// MissingError says that the machine lacks what a test needs: a reason to
// skip, as opposed to a server that is there and does not work.
type MissingError struct {
	What string // "java"
	Err  error
}

func (e *MissingError) Error() string { return fmt.Sprintf("%s is missing: %v", e.What, e.Err) }

// Unwrap returns the cause.
func (e *MissingError) Unwrap() error { return e.Err }

// need ends the test if err is not nil: as a failure if the server is broken
// or the run promised to have everything, as a skip if it is not installed.
func need(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	var missing *MissingError
	if !errors.As(err, &missing) || required() {
		t.Fatal(err)
	}
	noteSkip(t, err)
	t.Skip(err)
}

func required() bool {
	return os.Getenv("CI") == "true" || os.Getenv("OUTBOX_TEST_REQUIRE") == "1"
}

// noteSkip leaves a line for whoever runs all packages: go test shows the
// reason of a skip only with -v.
func noteSkip(t testing.TB, reason error) {
	name := os.Getenv("OUTBOX_TEST_SKIPPED")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		t.Log(err)
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s: %v\n", t.Name(), reason)
}
