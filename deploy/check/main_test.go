package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root is the repository, seen from here.
const root = "../.."

// relayPath is the program, built the way that the image has it.
var relayPath string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "outbox-deploy-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		relayPath = filepath.Join(dir, "outbox-relay")
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", relayPath, "./cmd/outbox-relay")
		build.Dir = root
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the relay: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// relay runs the program with exactly this environment, and returns its status and
// what it printed.
func relay(t *testing.T, environ []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), relayPath, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = environ, &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// judge has the program judge an environment as serve would. Warnings count: a
// variable with a typing error in its name is one.
func judge(t *testing.T, who string, environ []string) {
	t.Helper()
	if status, out, errs := relay(t, environ, "config", "validate", "--strict"); status != 0 {
		t.Errorf("%s: the program ends with %d on its settings\n%s%s", who, status, out, errs)
	}
}

// variables are the names of all settings.
func variables(t *testing.T) map[string]bool {
	t.Helper()
	status, out, errs := relay(t, nil, "config", "env", "-o", "json")
	if status != 0 {
		t.Fatalf("config env: %d\n%s", status, errs)
	}
	var all []map[string]any
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range all {
		name, _ := s["name"].(string)
		names[name] = true
	}
	if !names["KAFKA_BROKERS"] {
		t.Fatalf("no names in %.300s", out)
	}
	return names
}

// tool returns the path of a program of the distribution. Where everything has to be
// there its absence is a failure.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" || os.Getenv("OUTBOX_TEST_REQUIRE") == "1" {
		t.Fatalf("%s is missing: install %s", name, pkg)
	}
	if list := os.Getenv("OUTBOX_TEST_SKIPPED"); list != "" {
		if f, err := os.OpenFile(list, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666); err == nil {
			fmt.Fprintf(f, "%s: %s is missing\n", t.Name(), name)
			f.Close()
		}
	}
	t.Skipf("%s is missing", name)
	return ""
}

func text(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }
