package demo

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Fetching needs the network, which a test run is not owed: it happens only
// when asked for.
func TestFetchedPostgresRuns(t *testing.T) {
	if os.Getenv("OUTBOX_TEST_FETCH") == "" {
		t.Skip("set OUTBOX_TEST_FETCH=1 to download a Postgres")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cache, as := t.TempDir(), unprivileged()
	// The folder around a test's own is closed to others, which root's cache
	// is not.
	if err := os.Chmod(filepath.Dir(cache), 0o755); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	bin, err := fetchBinaries(ctx, executable(t), cache, as)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("fetched %s into %s in %s", bin.version, bin.dir, time.Since(began))
	left, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		t.Errorf("cache holds %v, want the binaries alone", left)
	}
	if found, ok := findBinaries(ctx, "", nil, cache); !ok || found != bin {
		t.Errorf("found %v, want %v", found, bin)
	}
	s := &supervisor{as: as}
	if s.dir, err = s.makeFolder(); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(s.dir)
	if err := s.initdb(ctx, bin); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.data(), "PG_VERSION")); err != nil {
		t.Error(err)
	}
}
