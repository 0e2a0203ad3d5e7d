package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
)

var update = flag.Bool("update", false, "record golden files")

const planted = "pl4nted-Passw0rd"

func TestMain(m *testing.M) {
	nameLogFields()
	// What the driver reads by itself would change what is shown.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "PG") || name == "COLUMNS" {
			os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m)
}

// output may be written by several goroutines.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string { o.mu.Lock(); defer o.mu.Unlock(); return o.buf.String() }

// try runs the program with an environment of its own.
func try(t *testing.T, environ []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err output
	status = run(process{
		args: args, environ: environ, signals: make(chan os.Signal), stdin: strings.NewReader(""), stdout: &out, stderr: &err,
		exit: func(int) { t.Error("the process was ended") },
	})
	return status, out.String(), err.String()
}

// What each command line prints is recorded, status first.
func TestCommandLines(t *testing.T) {
	sound := []string{"DATABASE_URL=postgres://app:" + planted + "@db:5432/shop?sslmode=disable", "KAFKA_BROKERS=a:9092,b:9092"}
	broken := []string{"DATABASE_URL=postgres://app:" + planted + "@db:5432/shop?sslmode=disable", "KAFKA_BROKERS=a,b:0", "OUTBOX_BATCH_SIZE=many", "OUTBOX_SLTO=x"}
	for _, c := range []struct {
		name    string
		environ []string
		args    string
		status  int
	}{
		{"help", nil, "--help", 0},
		{"help-of-a-command", broken, "version -h", 0},
		{"help-of-serve", nil, "serve --help", 0},
		{"nothing", nil, "", 2},
		{"unknown-command", nil, "serv", 2},
		{"unknown-flag", nil, "serve --exit-on-hlat", 2},
		{"unknown-flag-json", nil, "serve --exit-on-hlat -o json", 2},
		{"unknown-format", nil, "version -o xml", 2},
		{"serve-without-settings", nil, "serve", 2},
		{"serve-without-brokers", sound[:1], "serve", 2},
		{"serve-broken", broken, "serve", 2},
		{"serve-broken-json", broken, "serve -o json", 2},
		{"demo-of-no-time", nil, "demo --duration 0s", 2},
		{"config-show", sound, "config show", 0},
		{"config-show-json", sound, "config show -o json --kafka-sasl-mechanism plain --kafka-sasl-username app --kafka-sasl-password-file /nonexistent/password", 2},
		{"config-show-broken", broken, "config show --log-level loud", 2},
		{"config-validate", sound, "config validate", 0},
		{"config-validate-json", sound, "config validate -o json", 0},
		{"config-validate-broken", broken, "config validate", 2},
		{"config-validate-broken-json", broken, "config validate -o json", 2},
		{"config-validate-strict", append(sound[:2:2], "DATABSE_URL=x"), "config validate --strict", 2},
		{"slot-drop-print-sql", sound, "slot drop --print-sql", 0},
		{"slot-advance-print-sql", sound, "slot advance other --to 0/10 --print-sql -o json", 0},
		{"slot-create-print-sql", sound, "slot create --print-sql", 0},
		{"slot-inspect-print-sql", sound, "slot inspect --print-sql", 0},
		{"slot-list-print-sql", sound, "slot list --print-sql", 0},
		{"schema-sql", sound, "schema sql", 0},
		{"init-dry-run", sound, "init --dry-run", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, stdout, stderr := try(t, c.environ, strings.Fields(c.args)...)
			if status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			if strings.Contains(stdout+stderr, planted) {
				t.Error("the output holds the password")
			}
			// A fingerprint changes with every setting that is added.
			stdout = regexp.MustCompile(`(fingerprint"?:? "?)[0-9a-f]{12}`).ReplaceAllString(stdout, "${1}<fingerprint>")
			golden(t, c.name, fmt.Sprintf("$ outbox-relay %s\nstatus %d\n-- stdout\n%s-- stderr\n%s", c.args, status, stdout, stderr))
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := try(t, []string{"KAFKA_BROKERS=no list at all"}, "version")
	if status != 0 || stderr != "" || !regexp.MustCompile(`(?m)^outbox-relay +\S+\ncommit +\S+\ngo +go1\S+\nplatform +\w+/\w+\n$`).MatchString(stdout) {
		t.Errorf("%d %q %q", status, stdout, stderr)
	}
	_, stdout, _ = try(t, nil, "version", "-o", "json")
	var b map[string]string
	if err := json.Unmarshal([]byte(stdout), &b); err != nil || b["version"] == "" || b["commit"] == "" || b["go_version"] == "" || b["platform"] == "" {
		t.Errorf("%v: %s", err, stdout)
	}
}

// The reference is the same in all of its forms, and is what docs/config.md has.
func TestConfigEnv(t *testing.T) {
	t.Parallel()
	_, table, _ := try(t, []string{"KAFKA_BROKERS=no list at all"}, "config", "env")
	_, markdown, _ := try(t, nil, "config", "env", "--markdown")
	status, js, stderr := try(t, nil, "config", "env", "-o", "json")
	var all []config.Known
	if err := json.Unmarshal([]byte(js), &all); err != nil || status != 0 || stderr != "" || len(all) < 50 {
		t.Fatalf("%d %v %q: %d settings", status, err, stderr, len(all))
	}
	for _, k := range all {
		if !strings.Contains(table, "\n"+k.Name+" ") || !strings.Contains(markdown, "| `"+k.Name+"`") {
			t.Errorf("%s is missing in a form", k.Name)
		}
	}
	page, err := os.ReadFile("../../docs/config.md")
	if err != nil || !strings.Contains(string(page), markdown) {
		t.Errorf("docs/config.md is not what config env prints: %v", err)
	}
}

// Nothing that any command prints, in any way it can fail, holds a secret.
func TestNoOutputHoldsASecret(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	file := filepath.Join(t.TempDir(), "relay.yaml")
	if err := os.WriteFile(file, []byte("kafka:\n  sasl_password: '"+planted+"'\ndatabase_url: postgres://app:"+planted+"@"+gone+"/shop?sslmode=disable\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sasl := []string{"KAFKA_SASL_MECHANISM=scram-sha-512", "KAFKA_SASL_USERNAME=app", "LOG_LEVEL=trace", "KAFKA_CONNECTION_TIMEOUT=200", "KAFKA_REQUEST_TIMEOUT=200"}
	environs := map[string][]string{
		"sound":       append(sasl, "DATABASE_URL=postgres://app:"+planted+"@"+gone+"/shop?sslmode=disable", "OUTBOX_ADMIN_URL=host="+gone+" password="+planted, "KAFKA_BROKERS="+gone, "KAFKA_SASL_PASSWORD="+planted),
		"file":        append(sasl, "OUTBOX_CONFIG="+file, "KAFKA_BROKERS="+gone),
		"both":        append(sasl, "OUTBOX_CONFIG="+file, "KAFKA_SASL_PASSWORD_FILE="+file, "DATABASE_URL_FILE="+file),
		"wrong place": {"DATABASE_URL=" + planted, "KAFKA_BROKERS=kafka://app:" + planted + "@a:9092", "OUTBOX_ADMIN_URL=postgres://app:x/" + planted + "@h/d"},
		"typing":      {"DATABASE_URL=postgres://app:" + planted + " @h:x/d", "KAFKA_SASL_PASWORD=" + planted, "KAFKA_BROKERS=a"},
	}
	for name, environ := range environs {
		for _, args := range []string{
			"config show", "config show -o json", "config validate", "config validate -o json", "config env", "config env -o json", "config env --markdown", "version", "slot inspect", "slot list -o json", "status", "status -o json", "wait --timeout 100ms", "explain x --timeout 1s", "drain --timeout 100ms -o json", "schema sql", "schema install", "cleanup", "cleanup -o json", "slot create", "slot drop --yes x", "slot advance", "checkpoint show", "init --dry-run", "init", "verify", "verify -o json", "verify --data",
			"serve --kafka-sasl-password=" + planted, "serve --database-url=" + planted + "/", "serve --accept-gap x", "nonsense",
		} {
			t.Run(name+"/"+args, func(t *testing.T) {
				t.Parallel()
				_, stdout, stderr := try(t, environ, strings.Fields(args)...)
				if stdout+stderr == "" {
					t.Error("nothing was printed, so nothing was tested")
				}
				if strings.Contains(stdout+stderr, planted) {
					t.Errorf("the output holds the password:\n%s\n%s", stdout, stderr)
				}
			})
		}
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		err    error
		status int
		text   string
	}{
		{"nothing", nil, 0, ""},
		{"usage", fault.New(fault.BrokerList, "x"), 2, "OBX-1010 x\n  why: "},
		{"retry", fault.New(fault.KafkaUnreachable, "x"), 3, "OBX-5001 x\n"},
		{"halt", fmt.Errorf("outer: %w", fault.New(fault.Gap, "x")), 6, "OBX-4008 x\n"},
		{"internal", fault.New(fault.Runtime, "x"), 1, "OBX-9003 x\n"},
		{"no code", errors.New("disk is full"), 1, "OBX-9003 outbox-relay: disk is full\n"},
		{"shown already", exitStatus(4), 4, ""},
		{"many", config.Problems{fault.New(fault.ConfigMissing, "a"), fault.New(fault.BrokerList, "b")}, 2, "OBX-1003 a\n"},
	} {
		var text, js bytes.Buffer
		if got := report(&text, false, c.err); got != c.status {
			t.Errorf("%s: status %d, want %d", c.name, got, c.status)
		}
		if !strings.HasPrefix(text.String(), c.text) || (c.text == "") != (text.Len() == 0) {
			t.Errorf("%s: %q", c.name, text.String())
		}
		if got := report(&js, true, c.err); got != c.status {
			t.Errorf("%s as JSON: status %d, want %d", c.name, got, c.status)
		}
		var body struct{ Errors []failure }
		if c.text != "" && (json.Unmarshal(js.Bytes(), &body) != nil || len(body.Errors) == 0 || body.Errors[0].Code != c.text[:8] || body.Errors[0].Why == "") {
			t.Errorf("%s as JSON: %s", c.name, js.String())
		}
	}
}

// The first interrupt stops, the second ends the process.
func TestInterrupts(t *testing.T) {
	t.Parallel()
	for sig, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		signals, ended := make(chan os.Signal), make(chan struct{})
		stopped, exited := make(chan struct{}, 1), make(chan int, 1)
		interrupted := watch(signals, ended, func() { stopped <- struct{}{} }, func(n int) { exited <- n })
		if interrupted() != 0 {
			t.Error("interrupted before any signal")
		}
		signals <- syscall.SIGINT
		<-stopped
		if got := interrupted(); got != 130 {
			t.Errorf("after the first: %d", got)
		}
		signals <- sig
		if got := <-exited; got != want {
			t.Errorf("%s: exit %d, want %d", sig, got, want)
		}
		close(ended)
	}
	// One that was never asked ends with the run: the leak check sees it.
	ended := make(chan struct{})
	watch(make(chan os.Signal), ended, func() { t.Error("stopped") }, func(int) { t.Error("ended") })
	close(ended)
}

// The lines that operators parse have the names and the time of the
// documentation.
func TestLogLines(t *testing.T) {
	t.Parallel()
	var out output
	log := newLogger(&out, config.Log{Level: "info", Format: "auto"}, false, nil)
	log.Debug().Msg("unseen")
	log.Info().Str("relay", "orders").Msg("starts")
	var line map[string]any
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if ok := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`).MatchString(fmt.Sprint(line["time"])); !ok {
		t.Errorf("time %v", line["time"])
	}
	delete(line, "time")
	if diff := cmp.Diff(map[string]any{"level": "info", "msg": "starts", "relay": "orders"}, line); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, c := range []struct {
		format        string
		watched, json bool
	}{{"auto", true, false}, {"json", true, true}, {"console", false, false}, {"auto", false, true}} {
		var out output
		log := newLogger(&out, config.Log{Level: "info", Format: c.format}, c.watched, []string{"NO_COLOR=1"})
		log.Info().Msg("x")
		if got := json.Valid([]byte(out.String())); got != c.json || strings.Contains(out.String(), "\x1b[") {
			t.Errorf("%+v: %q", c, out.String())
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update records it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
