package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/outbox"
)

var update = flag.Bool("update", false, "record golden files")

const planted = "pl4nted-Passw0rd"

// parse runs a loader as a command would.
func parse(t testing.TB, environ []string, args ...string) *Loader {
	t.Helper()
	l := NewLoader(environ)
	k, err := kong.New(&struct{}{}, append(l.Options(), kong.Name("test"))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse(args); err != nil {
		t.Fatal(err)
	}
	return l
}

func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func entryOf(l *Loader, name string) Entry {
	for _, e := range l.Entries() {
		if e.Name == name {
			return e
		}
	}
	return Entry{}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	path := write(t, "relay.yaml", "outbox:\n  batch_size: 3\nkafka_tls: false\nlog-level: warn\n")
	file := "OUTBOX_CONFIG=" + path
	for _, c := range []struct {
		name    string
		environ []string
		args    []string
		setting string
		value   string
		origin  Origin
		from    string
	}{
		{"default", nil, nil, "OUTBOX_BATCH_SIZE", "100", FromDefault, ""},
		{"file", []string{file}, nil, "OUTBOX_BATCH_SIZE", "3", FromFile, "relay.yaml:2"},
		{"file by flag", nil, []string{"--outbox-config", path}, "OUTBOX_BATCH_SIZE", "3", FromFile, "relay.yaml:2"},
		{"file, other spelling", []string{file}, nil, "LOG_LEVEL", "warn", FromFile, "relay.yaml:4"},
		{"environment over file", []string{file, "OUTBOX_BATCH_SIZE=5"}, nil, "OUTBOX_BATCH_SIZE", "5", FromEnv, "OUTBOX_BATCH_SIZE"},
		{"empty variable is none", []string{file, "OUTBOX_BATCH_SIZE="}, nil, "OUTBOX_BATCH_SIZE", "3", FromFile, "relay.yaml:2"},
		{"flag over all", []string{file, "OUTBOX_BATCH_SIZE=5"}, []string{"--outbox-batch-size=7"}, "OUTBOX_BATCH_SIZE", "7", FromFlag, "--outbox-batch-size"},
		{"flag equal to the default", []string{"OUTBOX_BATCH_SIZE=5"}, []string{"--outbox-batch-size=100"}, "OUTBOX_BATCH_SIZE", "100", FromFlag, "--outbox-batch-size"},
		{"variable equal to the default", []string{file, "OUTBOX_BATCH_SIZE=100"}, nil, "OUTBOX_BATCH_SIZE", "100", FromEnv, "OUTBOX_BATCH_SIZE"},
		{"other name of a variable", []string{file, "KAFKA_SSL=true"}, nil, "KAFKA_TLS", "true", FromEnv, "KAFKA_SSL"},
		{"other name of the brokers", []string{"KAFKA_BOOTSTRAP_SERVERS=a:1, b:2"}, nil, "KAFKA_BROKERS", "a:1,b:2", FromEnv, "KAFKA_BOOTSTRAP_SERVERS"},
		{"false of a variable over true by rule", []string{"KAFKA_TLS=false", "KAFKA_BROKERS=a:9094"}, nil, "KAFKA_TLS", "false", FromEnv, "KAFKA_TLS"},
		{"true by rule", []string{"KAFKA_BROKERS=a:9094"}, nil, "KAFKA_TLS", "true", Derived, "every broker's port is 9094"},
		{"flag alone", nil, []string{"--kafka-tls"}, "KAFKA_TLS", "true", FromFlag, "--kafka-tls"},
		{"false by flag", []string{"KAFKA_ENABLED=true"}, []string{"--kafka-enabled=false"}, "KAFKA_ENABLED", "false", FromFlag, "--kafka-enabled"},
		{"topic that follows", []string{"KAFKA_EVENTS_TOPIC=orders"}, nil, "KAFKA_DLQ_TOPIC", "orders.dlq", Derived, "KAFKA_EVENTS_TOPIC"},
		{"topic that is said", []string{"KAFKA_DLQ_TOPIC=x"}, nil, "KAFKA_DLQ_TOPIC", "x", FromEnv, "KAFKA_DLQ_TOPIC"},
		{"checkpoint that follows", nil, []string{"--outbox-name=orders"}, "KAFKA_CHECKPOINT_TOPIC", "outbox.orders.checkpoint", Derived, "OUTBOX_NAME"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := parse(t, c.environ, c.args...)
			if _, err := l.Load(); err != nil {
				t.Fatal(err)
			}
			got := entryOf(l, c.setting)
			want := Entry{Name: c.setting, Value: c.value, Origin: c.origin, From: c.from, Group: got.Group, Help: got.Help}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Every setting can be given in each of the three ways, under its one name.
func TestEverySettingByEveryWay(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"database-url": "postgres://u@h:5432/d", "outbox-admin-url": "postgres://a@h:5432/d",
		"kafka-brokers": "a:9092,b:9092", "kafka-tls": "true", "kafka-sasl-mechanism": "plain", "kafka-compression": "lz4",
		"outbox-table": "s.t", "outbox-columns": "payload=data", "log-level": "debug", "log-format": "json", "health-addr": ":1",
		"outbox-errors-tolerance": "none",
	}
	for _, s := range settingsOf(new(Config)) {
		if s.env == "OUTBOX_CONFIG" {
			continue
		}
		text := values[s.name]
		if text == "" {
			switch s.field.Interface().(type) {
			case bool:
				text = "true"
				if s.def == "true" {
					text = "false"
				}
			case int:
				text = "7"
			case time.Duration:
				text = "1500"
			case Bytes:
				text = "2048KiB"
			default:
				text = "x_y"
			}
		}
		// parsed compares by what came of the text; other settings are
		// missing their partners here, so faults are not looked at.
		want := reflect.New(s.field.Type()).Elem()
		if err := parseInto(want, text, s.oneOf); err != nil {
			t.Fatalf("%s=%s: %v", s.env, text, err)
		}
		path := write(t, "c.yaml", s.key()+": '"+text+"'\n")
		for way, l := range map[string]*Loader{
			"env":  parse(t, []string{s.env + "=" + text}),
			"file": parse(t, []string{"OUTBOX_CONFIG=" + path}),
			"flag": parse(t, nil, "--"+s.name+"="+text),
		} {
			_, _ = l.Load()
			got := l.byName[s.name]
			if got.bad != nil || !reflect.DeepEqual(got.field.Interface(), want.Interface()) || string(got.origin) != way {
				t.Errorf("%s by %s: %v from %s, bad %v", s.env, way, got.field.Interface(), got.origin, got.bad)
			}
		}
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		environ string
		get     func(Config) any
		want    any // nil: refused
	}{
		{"KAFKA_CONNECTION_TIMEOUT=10000", func(c Config) any { return c.Kafka.Client.ConnectionTimeout }, 10 * time.Second},
		{"KAFKA_CONNECTION_TIMEOUT=5s", func(c Config) any { return c.Kafka.Client.ConnectionTimeout }, 5 * time.Second},
		{"KAFKA_CONNECTION_TIMEOUT=1m30s", func(c Config) any { return c.Kafka.Client.ConnectionTimeout }, 90 * time.Second},
		{"KAFKA_CONNECTION_TIMEOUT=fast", nil, nil},
		{"KAFKA_CONNECTION_TIMEOUT=99999999999999", nil, nil},
		{"KAFKA_CONNECTION_TIMEOUT=-1", nil, nil},
		{"OUTBOX_BATCH_MAX_BYTES=16MiB", func(c Config) any { return c.Outbox.BatchMaxBytes }, Bytes(16 << 20)},
		{"OUTBOX_BATCH_MAX_BYTES=5 mb", func(c Config) any { return c.Outbox.BatchMaxBytes }, Bytes(5e6)},
		{"OUTBOX_BATCH_MAX_BYTES=4096", func(c Config) any { return c.Outbox.BatchMaxBytes }, Bytes(4096)},
		{"OUTBOX_BATCH_MAX_BYTES=1.5MiB", nil, nil},
		{"OUTBOX_BATCH_MAX_BYTES=9999999999GiB", nil, nil},
		{"OUTBOX_BATCH_MAX_BYTES=-1", nil, nil},
		{"OUTBOX_BATCH_MAX_BYTES=MiB", nil, nil},
		{"KAFKA_ENABLED=Yes", func(c Config) any { return c.Kafka.Enabled }, true},
		{"KAFKA_ENABLED=off", func(c Config) any { return c.Kafka.Enabled }, false},
		{"KAFKA_ENABLED=maybe", nil, nil},
		{"KAFKA_TLS=maybe", nil, nil},
		{"KAFKA_SSL=1", func(c Config) any { return c.Kafka.Client.TLS.Mode }, kafka.On},
		{"LOG_LEVEL=WARN", func(c Config) any { return c.Log.Level }, "warn"},
		{"LOG_LEVEL=verbose", nil, nil},
		{"KAFKA_COMPRESSION=lzma", nil, nil},
		{"OUTBOX_TABLE=sales.outbox", func(c Config) any { return c.Outbox.Table.Schema + "|" + c.Outbox.Table.Name }, "sales|outbox"},
		{"OUTBOX_TABLE=outbox", nil, nil},
		{"OUTBOX_TABLE=a.b.c", nil, nil},
		{"OUTBOX_SLOT=Relay-1", nil, nil},
		{"OUTBOX_NAME=a/b", nil, nil},
		{"OUTBOX_NAME=" + strings.Repeat("n", 101), nil, nil},
		{"OUTBOX_NAME=orders.eu-1", func(c Config) any { return c.Kafka.Client.ClientID }, "outbox-relay-orders.eu-1"},
		{"OUTBOX_BATCH_SIZE=0", nil, nil},
		{"OUTBOX_BATCH_SIZE=30000", nil, nil},
		{"OUTBOX_COLUMNS=payload=data", func(c Config) any { return c.Outbox.Columns.Payload }, "data"},
		{"OUTBOX_COLUMNS=paylod=data", nil, nil},
		{"OUTBOX_TOPIC_TEMPLATE=outbox.event.{aggregatetype}", func(c Config) any { return c.Outbox.TopicTemplate }, "outbox.event.{aggregatetype}"},
		{"OUTBOX_TOPIC_TEMPLATE=outbox.event.{nobody}", nil, nil},
		{"KAFKA_EVENTS_TOPIC=a b", nil, nil},
		{"KAFKA_DLQ_TOPIC=outbox_events", nil, nil},
		{"KAFKA_CHECKPOINT_TOPIC=outbox.events", nil, nil},
		{"KAFKA_TRANSACTION_TIMEOUT=10ms", nil, nil},
		{"OUTBOX_MAX_ROW_BYTES=2GiB", nil, nil},
		{"HEALTH_ADDR=8080", nil, nil},
		{"KAFKA_BROKERS=a", nil, nil},
	} {
		name, _, _ := strings.Cut(c.environ, "=")
		cfg, err := parse(t, []string{c.environ}).Load()
		switch {
		case c.want == nil && err == nil:
			t.Errorf("%s was accepted", c.environ)
		case c.want == nil:
			var p Problems
			if !errors.As(err, &p) || len(p) != 1 || p[0].Code.Class != fault.Usage || !strings.Contains(p.Text(), name) || p[0].Reason() == "" || p[0].Remedy() == "" {
				t.Errorf("%s: %d problems, want one that names it:\n%v", c.environ, len(p), err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.environ, err)
		case !reflect.DeepEqual(c.get(cfg), c.want):
			t.Errorf("%s: %v, want %v", c.environ, c.get(cfg), c.want)
		}
	}
}

// The words of whole reports are recorded: all problems at once, in order.
func TestReports(t *testing.T) {
	t.Parallel()
	path := write(t, "relay.yaml", `
kafka:
  borkers: [a:9092]
  connection_timeout: soon
  sasl:
    mechanism: [plain]
outbox:
  batch_size: 5
  batch-size: 6
  columns: {paylod: data}
  name: {a: b}
unrelated: true
`)
	var out strings.Builder
	for _, c := range []struct {
		name    string
		environ []string
		args    []string
	}{
		{"nothing given", nil, nil},
		{"much is wrong", []string{
			"KAFKA_BROKERS=kafka://a:9092,b:0,b", "KAFKA_TLS=true", "KAFKA_SSL=false", "KAFKA_CONNECTION_TIMEOUT=ten", "OUTBOX_BATCH_SIZE=many",
			"OUTBOX_SLOT=My-Slot", "LOG_LEVEL=inof", "KAFKA_SASL_MECHANISM=GSSAPI", "KAFKA_SASL_USERNAME=u", "KAFKA_SASL_PASSWORD=" + planted,
			"DATABASE_URL=postgres://app:" + planted + "/x@host:5432/db", "OUTBOX_BATCHSIZE=9", "KAFKA_HEAP_OPTS=-Xmx1g", "KAFKA_PORT_9092_TCP_ADDR=10.0.0.1", "KAFKA_SERVICE_HOST=10.0.0.1",
		}, []string{"--outbox-batch-max=few"}},
		{"a breaker that is none", []string{
			"DATABASE_URL=host=h dbname=d", "KAFKA_BROKERS=a:9092", "KAFKA_BREAKER_FAILURES=0", "KAFKA_BREAKER_RESET=0", "KAFKA_BREAKER_SUCCESSES=-1",
		}, nil},
		{"a file with mistakes", []string{"OUTBOX_CONFIG=" + path, "DATABASE_URL=host=h dbname=d"}, nil},
		{"no file", []string{"OUTBOX_CONFIG=/nonexistent/relay.yaml", "DATABASE_URL=host=h dbname=d", "KAFKA_BROKERS=a:9092"}, nil},
		{"secrets twice and on the command line", []string{
			"DATABASE_URL=host=h dbname=d password=" + planted, "DATABASE_URL_FILE=" + path, "KAFKA_BROKERS=a:9092", "KAFKA_SASL_MECHANISM=plain", "KAFKA_SASL_USERNAME=u",
		}, []string{"--kafka-sasl-password=" + planted}},
	} {
		l := parse(t, c.environ, c.args...)
		_, err := l.Load(NeedDatabase, NeedKafka)
		fmt.Fprintf(&out, "== %s\n", c.name)
		var p Problems
		if !errors.As(err, &p) {
			t.Fatalf("%s: %v", c.name, err)
		}
		if code := fault.CodeOf(err); code.Class.ExitCode() != 2 {
			t.Errorf("%s: exit %d", c.name, code.Class.ExitCode())
		}
		fmt.Fprintln(&out, p.Text())
		for _, w := range l.Warnings() {
			fmt.Fprintf(&out, "warning: %s (%s)\n", w.Detail, w.Fix)
		}
	}
	golden(t, "reports", out.String())
	if strings.Contains(out.String(), planted) {
		t.Error("a report holds the password")
	}
}

func TestDatabase(t *testing.T) {
	secretFile := write(t, "url", "postgres://app:"+planted+"@h:5433/d\n")
	for _, c := range []struct {
		name    string
		environ []string
		shown   string
		from    string
		ok      bool
	}{
		{"url", []string{"DATABASE_URL=postgres://app:" + planted + "@h:5433/d?sslmode=disable"}, "postgres://app:[redacted]@h:5433/d", "DATABASE_URL", true},
		{"no password", []string{"DATABASE_URL=postgres://app@h/d?sslmode=disable"}, "postgres://app@h:5432/d", "DATABASE_URL", true},
		{"several hosts", []string{"DATABASE_URL=postgres://app@h1:1,h2:2/d"}, "postgres://app@h1:1,h2:2/d", "DATABASE_URL", true},
		{"keywords", []string{"DATABASE_URL=host=h user=app dbname=d password='" + planted + "'"}, "postgres://app:[redacted]@h:5432/d", "DATABASE_URL", true},
		{"file", []string{"DATABASE_URL_FILE=" + secretFile}, "postgres://app:[redacted]@h:5433/d", "DATABASE_URL_FILE", true},
		{"slash in the password", []string{"DATABASE_URL=postgres://app:x/" + planted + "@h/d"}, "[redacted]", "DATABASE_URL", false},
		{"at in the password", []string{"DATABASE_URL=postgres://app:x@" + planted + "@h/d"}, "[redacted]", "DATABASE_URL", false},
		{"hash in the password", []string{"DATABASE_URL=postgres://app:x#" + planted + "@h/d"}, "postgres://app:[redacted]@h:5432/d", "DATABASE_URL", true},
		{"percent in the password", []string{"DATABASE_URL=postgres://app:%zz" + planted + "@h/d"}, "[redacted]", "DATABASE_URL", false},
		{"no url at all", []string{"DATABASE_URL=" + planted}, "[redacted]", "DATABASE_URL", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := parse(t, append(c.environ, "KAFKA_BROKERS=a:1"))
			_, err := l.Load(NeedDatabase, NeedKafka)
			e := entryOf(l, "DATABASE_URL")
			if strings.Contains(fmt.Sprint(err), planted) || strings.Contains(e.Value, planted) {
				t.Fatalf("the password is shown: %v %v", err, e)
			}
			if (err == nil) != c.ok {
				t.Fatalf("error %v", err)
			}
			if c.ok && (e.Value != c.shown || e.From != c.from) {
				t.Errorf("shown as %s from %s, want %s from %s", e.Value, e.From, c.shown, c.from)
			}
			if err != nil && fault.CodeOf(err) != fault.DatabaseURL {
				t.Errorf("code %s", fault.CodeOf(err).Name)
			}
		})
	}
	t.Run("PG variables", func(t *testing.T) {
		t.Setenv("PGHOST", "h")
		t.Setenv("PGUSER", "app")
		t.Setenv("PGDATABASE", "d")
		l := parse(t, os.Environ())
		cfg, err := l.Load(NeedDatabase)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := cfg.Database.AdminConn()
		if err != nil || conn.Host != "h" || conn.Database != "d" {
			t.Errorf("%+v, %v", conn, err)
		}
		if e := entryOf(l, "DATABASE_URL"); e.From != "PG*" || !strings.HasPrefix(e.Value, "postgres://app@h:") {
			t.Errorf("%+v", e)
		}
	})
}

func TestShow(t *testing.T) {
	t.Parallel()
	path := write(t, "relay.yaml", "kafka:\n  brokers: [a:9094, b:9094]\n  sasl: {mechanism: scram-sha-512, username: u}\noutbox:\n  columns: {payload: data}\n")
	l := parse(t, []string{
		"OUTBOX_CONFIG=" + path, "KAFKA_SASL_PASSWORD=" + planted, "DATABASE_URL=postgres://app:" + planted + "@h:5432/d?sslmode=disable",
		"OUTBOX_ADMIN_URL=postgres://admin:" + planted + "@h:5432/d?sslmode=disable",
	}, "--outbox-name=orders")
	if _, err := l.Load(NeedDatabase, NeedKafka); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := WriteTable(&out, l.Entries()); err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(out.String(), path, "<dir>/relay.yaml")
	if strings.Contains(got, planted) {
		t.Error("the table holds the password")
	}
	// The path of the file has another length on each run.
	lines := strings.Split(got, "\n")
	for i, line := range lines {
		lines[i] = strings.Join(strings.FieldsFunc(line, func(r rune) bool { return r == ' ' }), " ")
	}
	golden(t, "show", strings.Join(lines, "\n"))

	other := parse(t, []string{"OUTBOX_NAME=other"})
	_, _ = other.Load()
	again := parse(t, []string{"OUTBOX_NAME=other"})
	_, _ = again.Load()
	if l.Fingerprint() == other.Fingerprint() || again.Fingerprint() != other.Fingerprint() || len(l.Fingerprint()) != 12 {
		t.Error("fingerprints do not tell configurations apart")
	}
}

func TestDefaultIsWhatAnEmptyEnvironmentGives(t *testing.T) {
	t.Parallel()
	cfg, err := parse(t, nil).Load()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(cfg, Default()) {
		t.Errorf("loaded %+v\ndefault %+v", cfg, Default())
	}
	if cfg.Outbox.BatchMaxBytes != 16<<20 || cfg.Kafka.TransactionTimeout != time.Minute || cfg.Outbox.Table.String() != "outbox.events" || cfg.Outbox.Columns != outbox.DefaultColumns() {
		t.Errorf("%+v", cfg)
	}
}

// Names are a promise: one word for flag, variable and file key, no two the
// same, each with a help and a readable default.
func TestSettingsAreWellFormed(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range settingsOf(new(Config)) {
		for _, v := range s.vars() {
			if seen[v] {
				t.Errorf("%s is used twice", v)
			}
			seen[v] = true
		}
		if s.help == "" {
			t.Errorf("%s has no help", s.env)
		}
		if s.def != "" {
			if err := s.parse(s.def); err != nil {
				t.Errorf("%s: default %s: %v", s.env, s.def, err)
			}
		}
	}
	for _, v := range strings.Fields(`DATABASE_URL KAFKA_BROKERS KAFKA_EVENTS_TOPIC KAFKA_DLQ_TOPIC KAFKA_CHECKPOINT_TOPIC KAFKA_CREATE_TOPICS
		KAFKA_CONNECTION_TIMEOUT KAFKA_REQUEST_TIMEOUT KAFKA_SSL KAFKA_TLS KAFKA_SASL_MECHANISM KAFKA_SASL_USERNAME KAFKA_SASL_PASSWORD KAFKA_COMPRESSION
		KAFKA_TRANSACTION_TIMEOUT KAFKA_ENABLED KAFKA_VALIDATE_ON_STARTUP HEALTH_INCLUDE_KAFKA OUTBOX_NAME OUTBOX_SLOT OUTBOX_PUBLICATION OUTBOX_TABLE
		OUTBOX_BATCH_SIZE OUTBOX_BATCH_MAX OUTBOX_BATCH_MAX_BYTES OUTBOX_TOPIC_TEMPLATE OUTBOX_AUTO_INIT HEALTH_ADDR LOG_LEVEL LOG_FORMAT OUTBOX_COLUMNS
		OUTBOX_ADMIN_URL OUTBOX_CONFIG OUTBOX_MAX_ROW_BYTES OUTBOX_HEARTBEAT_INTERVAL OUTBOX_DRAIN_TIMEOUT OUTBOX_MIN_COMMIT_INTERVAL`) {
		if !seen[v] {
			t.Errorf("%s is promised and missing", v)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"KAFKA_BROKERS", "KAFKA_TLS", "OUTBOX_BATCH_SIZE", "OUTBOX_BATCH_MAX"}
	for word, want := range map[string]string{"KAFKA_BORKERS": "KAFKA_BROKERS", "KAFKA_BROKER": "KAFKA_BROKERS", "OUTBOX_BATCHSIZE": "OUTBOX_BATCH_SIZE", "KAFKA_HEAP_OPTS": "", "": ""} {
		if got := nearest(word, known); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
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
