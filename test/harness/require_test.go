package harness

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// verdict records how need ends a test.
type verdict struct {
	testing.TB
	skipped, failed bool
}

func (v *verdict) Helper()      {}
func (v *verdict) Name() string { return "TestOfVerdict" }
func (v *verdict) Fatal(...any) { v.failed = true; panic(v) }
func (v *verdict) Skip(...any)  { v.skipped = true; panic(v) }
func (v *verdict) run(f func()) { defer func() { _ = recover() }(); f() }

func TestNeed(t *testing.T) {
	missing := &MissingError{What: "java", Err: errors.New("not found")}
	broken := errors.New("port in use")
	for name, tc := range map[string]struct {
		err             error
		ci, require     string
		skipped, failed bool
	}{
		"nothing wrong":       {},
		"missing":             {err: missing, skipped: true},
		"missing, wrapped":    {err: errors.Join(errors.New("start kafka"), missing), skipped: true},
		"missing in CI":       {err: missing, ci: "true", failed: true},
		"missing, required":   {err: missing, require: "1", failed: true},
		"broken is no reason": {err: broken, failed: true},
	} {
		t.Run(name, func(t *testing.T) {
			notes := filepath.Join(t.TempDir(), "skipped")
			t.Setenv("CI", tc.ci)
			t.Setenv("OUTBOX_TEST_REQUIRE", tc.require)
			t.Setenv("OUTBOX_TEST_SKIPPED", notes)
			v := &verdict{TB: t}
			v.run(func() { need(v, tc.err) })
			if v.skipped != tc.skipped || v.failed != tc.failed {
				t.Errorf("skipped %t, failed %t", v.skipped, v.failed)
			}
			text, _ := os.ReadFile(notes)
			if noted := strings.Contains(string(text), "TestOfVerdict: "); noted != tc.skipped {
				t.Errorf("noted %q", text)
			}
		})
	}
}

// fakeMaven puts a mvn into PATH that runs a line of shell.
func fakeMaven(t *testing.T, script string) (cache string) {
	t.Helper()
	bin := t.TempDir()
	cache = filepath.Join(t.TempDir(), "cache")
	mustBeNil(t, os.WriteFile(filepath.Join(bin, "mvn"), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("OUTBOX_TEST_CACHE", cache)
	return cache
}

const fetchOne = `for a; do case $a in -DoutputDirectory=*) d=${a#*=};; esac; done
mkdir "$d" && echo jar >"$d/one.jar" && echo run >>"$d/../runs"`

func TestKafkaJarsAreFetchedOnce(t *testing.T) {
	cache := fakeMaven(t, fetchOne)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			libs, err := kafkaJars(within(t, 30*time.Second))
			if err != nil {
				t.Error(err)
			} else if _, err := os.Stat(filepath.Join(libs, "one.jar")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	runs := func() int {
		text, _ := os.ReadFile(filepath.Join(cache, "runs"))
		return strings.Count(string(text), "run")
	}
	if got := runs(); got != 1 {
		t.Fatalf("maven ran %d times", got)
	}

	// The jars of another pom are replaced, not added to.
	libs, err := kafkaJars(t.Context())
	mustBeNil(t, err)
	mustBeNil(t, os.WriteFile(filepath.Join(libs, ".complete"), []byte("another pom"), 0o644))
	mustBeNil(t, os.WriteFile(filepath.Join(libs, "old.jar"), nil, 0o644))
	_, err = kafkaJars(t.Context())
	mustBeNil(t, err)
	if _, err := os.Stat(filepath.Join(libs, "old.jar")); err == nil || runs() != 2 {
		t.Errorf("after a change of the pom: %d runs, old jar %v", runs(), err)
	}
}

func TestKafkaJarsWithoutNetwork(t *testing.T) {
	fakeMaven(t, `echo no route to host; exit 1`)
	for range 2 { // half a fetch is not taken for a whole one
		_, err := kafkaJars(t.Context())
		var missing *MissingError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), "no route to host") {
			t.Fatalf("got %v", err)
		}
	}
}

func TestLockFileObeysContext(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), name)
	mustBeNil(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockFile(ctx, name); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	unlock()
	again, err := lockFile(ctx, name)
	mustBeNil(t, err)
	again()
}

func TestTail(t *testing.T) {
	for _, tc := range []struct {
		text string
		n    int
		want string
	}{
		{"", 3, ""}, {"a\n", 3, "a"}, {"a\nb\nc\n", 2, "b\nc"}, {"a\nb\nc", 3, "a\nb\nc"}, {"a\nb", 1, "b"}, {"\na", 2, "\na"},
	} {
		if got := string(tail([]byte(tc.text), tc.n)); got != tc.want {
			t.Errorf("tail(%q, %d) = %q, want %q", tc.text, tc.n, got, tc.want)
		}
	}
}
