package check

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	unitPath   = "deploy/systemd/outbox-relay.service"
	dropInPath = "deploy/systemd/kafka.conf"
)

// directives returns the values of a directive in the order of the file.
func directives(text, name string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// mostExposure is what systemd-analyze security may give, in tenths: the network is
// needed, and the rest is not.
const mostExposure = 15

func TestUnit(t *testing.T) {
	t.Parallel()
	analyze := tool(t, "systemd-analyze", "systemd")
	// The binary need not be installed for the unit to be right.
	dir := t.TempDir()
	unit := filepath.Join(dir, "outbox-relay.service")
	here := strings.ReplaceAll(text(t, unitPath), "/usr/local/bin/outbox-relay", relayPath)
	if err := os.WriteFile(unit, []byte(here), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(unit+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(unit+".d", "kafka.conf"), []byte(text(t, dropInPath)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", unit).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("outbox-relay.service")) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold="+strconv.Itoa(mostExposure), unit).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// The settings of the unit, its environment file and the drop-in are sound together,
// with the credentials where the manager would put them.
func TestUnitSettings(t *testing.T) {
	t.Parallel()
	credentials := t.TempDir()
	both := text(t, unitPath) + text(t, dropInPath)
	for _, load := range directives(both, "LoadCredential") {
		name, from, ok := strings.Cut(load, ":")
		if !ok || !strings.HasPrefix(from, "/etc/outbox-relay/") {
			t.Errorf("LoadCredential=%s", load)
		}
		value := "s3cret"
		if name == "database-url" {
			value = "postgres://outbox_relay:s3cret@db:5432/shop"
		}
		if err := os.WriteFile(filepath.Join(credentials, name), []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var environ []string
	for _, e := range directives(both, "Environment") {
		environ = append(environ, strings.ReplaceAll(e, "%d", credentials))
	}
	for _, line := range lines(text(t, "deploy/systemd/outbox-relay.env")) {
		if line != "" && !strings.HasPrefix(line, "#") {
			environ = append(environ, line)
		}
	}
	judge(t, "the unit", environ)
	for _, e := range environ {
		if name, value, _ := strings.Cut(e, "="); strings.Contains(value, "s3cret") || regexp.MustCompile(`(PASSWORD|URL|TOKEN)$`).MatchString(name) {
			t.Errorf("%s is a secret in the environment", name)
		}
	}
}

// Statuses that a person has to look at are not restarted, and those alone.
func TestUnitRestarts(t *testing.T) {
	t.Parallel()
	unit := text(t, unitPath)
	for name, want := range map[string]string{
		"Type": "notify", "Restart": "on-failure", "RestartPreventExitStatus": "2 4 6", "WatchdogSec": "30", "StartLimitIntervalSec": "0", "DynamicUser": "yes",
	} {
		if got := directives(unit, name); !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	page := text(t, "docs/operations.md")
	if !strings.Contains(page, "RestartPreventExitStatus=2 4 6") {
		t.Error("docs/operations.md says something else")
	}
}

// manager is the socket of a service manager; it returns the lines that it hears.
func manager(t *testing.T) (socket string, heard <-chan string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	all := make(chan string, 1000)
	go func() {
		defer close(all)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			for _, line := range strings.Split(string(buf[:n]), "\n") {
				all <- line
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		for range all {
		}
	})
	return socket, all
}

func await(t *testing.T, heard <-chan string, want string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case line := <-heard:
			if line == want {
				return
			}
		case <-limit:
			t.Fatalf("the manager did not hear %s", want)
		}
	}
}

// service is `serve` without Kafka: it comes up by itself.
func service(t *testing.T, environ ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), relayPath, "serve")
	cmd.Env = append([]string{"DATABASE_URL=postgres://u@127.0.0.1:1/d", "KAFKA_ENABLED=false", "HEALTH_ADDR=127.0.0.1:0"}, environ...)
	cmd.Stderr = new(bytes.Buffer)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestServiceSpeaksToItsManager(t *testing.T) {
	t.Parallel()
	socket, heard := manager(t)
	cmd := service(t, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=3000000")
	await(t, heard, "READY=1")
	await(t, heard, "STATUS=disabled")
	await(t, heard, "WATCHDOG=1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, heard, "STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, cmd.Stderr)
	}
}

// After the watchdog's SIGABRT, as after a crash, the Go runtime ends with status 2,
// which the unit takes for a mistake in the settings. With what the unit sets it dies
// of the signal, and is started again.
func TestWatchdogEndIsNoUsageError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		environ []string
		status  int // -1: of the signal
	}{
		{nil, 2},
		{directives(text(t, unitPath), "Environment")[1:], -1},
	} {
		socket, heard := manager(t)
		cmd := service(t, append(c.environ, "NOTIFY_SOCKET="+socket)...)
		await(t, heard, "READY=1")
		if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		state := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if cmd.ProcessState.ExitCode() != c.status || state.Signaled() != (c.status < 0) {
			t.Errorf("with %q: %s, want status %d", c.environ, cmd.ProcessState, c.status)
		}
		stacks := bufio.NewScanner(bytes.NewReader(cmd.Stderr.(*bytes.Buffer).Bytes()))
		found := false
		for stacks.Scan() {
			found = found || strings.HasPrefix(stacks.Text(), "goroutine ")
		}
		if !found {
			t.Error("no stacks were printed")
		}
	}
}
