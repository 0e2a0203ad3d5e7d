package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// connectionTimeout is KAFKA_CONNECTION_TIMEOUT in these tests, and grace is
// what a command may take beyond it to say what is wrong.
const (
	connectionTimeout = 2 * time.Second
	grace             = 2 * time.Second
)

// environment is the block of a deployment: every variable under the name that
// the documentation has for it.
func environment(k *harness.SecureKafka, listener, mechanism string) map[string]string {
	env := map[string]string{
		"KAFKA_ENABLED":             "true",
		"KAFKA_BROKERS":             k.Listener(listener),
		"KAFKA_CONNECTION_TIMEOUT":  fmt.Sprint(connectionTimeout.Milliseconds()),
		"KAFKA_REQUEST_TIMEOUT":     "30000",
		"KAFKA_SSL":                 "true",
		"KAFKA_TLS_CA_FILE":         k.CA,
		"KAFKA_VALIDATE_ON_STARTUP": "false",
		"HEALTH_INCLUDE_KAFKA":      "true",
		"OUTBOX_BATCH_SIZE":         "100",
		"LOG_LEVEL":                 "trace", // what could be said is said
	}
	if mechanism != "" {
		env["KAFKA_SASL_MECHANISM"] = mechanism
		env["KAFKA_SASL_USERNAME"], env["KAFKA_SASL_PASSWORD"] = harness.SecureUser, harness.SecurePassword
	}
	return env
}

// with returns a copy with other values; an empty one takes the variable away.
func with(env map[string]string, more ...string) map[string]string {
	env = maps.Clone(env)
	for i := 0; i < len(more); i += 2 {
		if env[more[i]] = more[i+1]; more[i+1] == "" {
			delete(env, more[i])
		}
	}
	return env
}

// token is one that nobody has signed, which the listener takes.
func token(subject string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"none"}`)) + "." + part(fmt.Appendf(nil, `{"sub":%q,"iat":%d,"exp":%d,"jti":%q}`,
		subject, time.Now().Add(-time.Minute).Unix(), time.Now().Add(time.Hour).Unix(), harness.SecurePassword)) + "."
}

// silent fails if the password is in what was said.
func silent(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		for _, form := range []string{harness.SecurePassword, base64.StdEncoding.EncodeToString([]byte(harness.SecurePassword)), fmt.Sprintf("%x", harness.SecurePassword)} {
			if strings.Contains(text, form) {
				t.Errorf("the password is in the output:\n%s", text)
			}
		}
	}
	harmless(t, texts...)
}

// With each mechanism a relay is initialised, checked and run with nothing but
// the environment of a deployment, and delivers.
func TestEveryMechanism(t *testing.T) {
	rig.Real(t)
	k := harness.NewSecureKafka(t)
	for _, c := range []struct {
		name     string
		listener string
		env      map[string]string
	}{
		{"plain", harness.ListenPlain, environment(k, harness.ListenPlain, "plain")},
		{"scram-sha-256", harness.ListenSHA256, environment(k, harness.ListenSHA256, "scram-sha-256")},
		{"scram-sha-512, KAFKA_TLS", harness.ListenSHA512, with(environment(k, harness.ListenSHA512, "SCRAM_SHA_512"), "KAFKA_SSL", "", "KAFKA_TLS", "true")},
		{"client certificate", harness.ListenMutual, with(environment(k, harness.ListenMutual, ""), "KAFKA_TLS_CERT_FILE", k.ClientCert, "KAFKA_TLS_KEY_FILE", k.ClientKey)},
		{"without TLS", harness.ListenSASL, with(environment(k, harness.ListenSASL, "plain"), "KAFKA_SSL", "false")},
		{"token", harness.ListenToken, with(environment(k, harness.ListenToken, "oauthbearer"), "KAFKA_SASL_USERNAME", "", "KAFKA_SASL_PASSWORD", token(harness.SecureUser))},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := within(t, 60*time.Second)
			r := rig.New(t, rig.Config{Kafka: k.KafkaServer, Partitions: 1, Env: c.env})
			said := []string{}
			run := func(args ...string) {
				t.Helper()
				out := r.Command(t, args...)
				said = append(said, out.Stdout, out.Stderr)
				if out.ExitCode != 0 {
					t.Errorf("%s: exit status %d\n%s%s", strings.Join(args, " "), out.ExitCode, out.Stdout, out.Stderr)
				}
			}
			run("init")
			relay := r.Serve(t, nil)
			rig.AwaitStreaming(t, relay)
			r.Insert(t, 5)
			r.AwaitCaughtUp(ctx, t)
			everyRowOnce(ctx, t, r, r.Events)
			run("verify")
			run("checkpoint", "show")
			run("config", "show")
			said = append(said, answers(ctx, t, relay))
			if check := kafkaCheck(ctx, t, relay); check["status"] != "pass" {
				t.Errorf("/api/health says of Kafka %v", check)
			}
			stop(ctx, t, relay)
			silent(t, append(said, relay.Stdout(), relay.Stderr())...)
		})
	}
}

// kafkaCheck is .checks.kafka of the health report.
func kafkaCheck(ctx context.Context, t testing.TB, relay *harness.Relay) map[string]any {
	t.Helper()
	var report struct{ Checks map[string]map[string]any }
	if err := json.Unmarshal([]byte(get(ctx, t, relay.HealthURL()+"/api/health")), &report); err != nil {
		t.Fatal(err)
	}
	return report.Checks["kafka"]
}

// deaf takes connections and never says a word.
func deaf(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close() //nolint:gocritic // at the end of the test
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// blackHole answers no packet: a listener whose queue is full and that nobody
// empties.
func blackHole(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "black hole")
	t.Cleanup(func() { f.Close() })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("this system has room for every connection")
	return ""
}

// web answers everything as a web server does.
func web(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 1<<16))
				_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

// wrongness is one way not to be let in.
type wrongness struct {
	name, code, class string
	env               map[string]string
	serve             bool // looked at through serve as well
}

func wrongnesses(t testing.TB, k *harness.SecureKafka) []wrongness {
	plain, sha256, sha512 := environment(k, harness.ListenPlain, "plain"), environment(k, harness.ListenSHA256, "scram-sha-256"), environment(k, harness.ListenSHA512, "scram-sha-512")
	bare := environment(k, harness.ListenTLS, "")
	// The wrong password is no secret less than the right one.
	wrong := "not-" + harness.SecurePassword
	return []wrongness{
		{"wrong password, plain", "OBX-5003", "sasl", with(plain, "KAFKA_SASL_PASSWORD", wrong), true},
		{"wrong password, scram-sha-256", "OBX-5003", "sasl", with(sha256, "KAFKA_SASL_PASSWORD", wrong), false},
		{"wrong password, scram-sha-512", "OBX-5003", "sasl", with(sha512, "KAFKA_SASL_PASSWORD", wrong), false},
		{"unknown user", "OBX-5003", "sasl", with(sha512, "KAFKA_SASL_USERNAME", "nobody"), false},
		{"other mechanism", "OBX-5035", "sasl", with(sha256, "KAFKA_SASL_MECHANISM", "scram-sha-512"), false},
		{"no SASL where it is wanted", "OBX-5036", "sasl", environment(k, harness.ListenPlain, ""), false},
		{"SASL where it is not", "OBX-5037", "sasl", environment(k, harness.ListenTLS, "plain"), false},

		{"wrong authority", "OBX-5028", "tls", with(plain, "KAFKA_TLS_CA_FILE", k.OtherCA), true},
		{"no authority", "OBX-5028", "tls", with(plain, "KAFKA_TLS_CA_FILE", ""), false},
		{"expired certificate", "OBX-5027", "tls", with(bare, "KAFKA_BROKERS", k.Listener(harness.ListenExpired)), true},
		{"wrong host name", "OBX-5029", "tls", with(bare, "KAFKA_BROKERS", k.Listener(harness.ListenNamed)), false},
		{"plaintext on a TLS port", "OBX-5031", "tls", with(plain, "KAFKA_SSL", "false"), true},
		{"TLS on a plaintext port", "OBX-5030", "tls", with(plain, "KAFKA_BROKERS", k.Listener(harness.ListenSASL)), true},
		{"no client certificate", "OBX-5032", "tls", environment(k, harness.ListenMutual, ""), false},
		{"client certificate of a stranger", "OBX-5033", "tls", with(environment(k, harness.ListenMutual, ""),
			"KAFKA_TLS_CERT_FILE", k.StrangerCert, "KAFKA_TLS_KEY_FILE", k.StrangerKey), false},

		{"unknown host", "OBX-5020", "dns", with(plain, "KAFKA_BROKERS", "nowhere.invalid:9094"), true},
		{"closed port", "OBX-5022", "network", with(plain, "KAFKA_BROKERS", closedPort(t)), true},
		{"port that is silent", "OBX-5026", "timeout", with(plain, "KAFKA_BROKERS", deaf(t)), true},
		{"port that is silent, without TLS", "OBX-5026", "timeout", with(plain, "KAFKA_BROKERS", deaf(t), "KAFKA_SSL", "false"), false},
		{"black hole", "OBX-5025", "timeout", with(plain, "KAFKA_BROKERS", blackHole(t)), true},
		{"web server", "OBX-5040", "protocol", with(plain, "KAFKA_BROKERS", web(t), "KAFKA_SSL", "false"), false},
	}
}

// Whatever keeps a client out, each command names it, its class and what to do,
// in time, and never says the password.
func TestKafkaDoesNotLetIn(t *testing.T) {
	rig.Real(t)
	k := harness.NewSecureKafka(t)
	r := rig.New(t, rig.Config{Kafka: k.KafkaServer, Partitions: 1})
	r.Init(t)
	for _, w := range wrongnesses(t, k) {
		t.Run(w.name, func(t *testing.T) {
			if w.class == "timeout" {
				t.Parallel() // all they do is wait
			}
			env := maps.Clone(r.Env)
			maps.Copy(env, w.env)
			for _, args := range [][]string{{"verify"}, {"verify", "-o", "json"}, {"checkpoint", "show"}, {"checkpoint", "show", "-o", "json"}, {"init"}} {
				began := time.Now()
				out := harness.RunRelay(t, r.Bin, env, args...)
				took, line := time.Since(began), strings.Join(args, " ")
				said := out.Stdout + out.Stderr
				silent(t, said)
				// A check that was answered before it was refused ends with 4.
				if out.ExitCode != 3 && (args[0] != "verify" || out.ExitCode != 4) {
					t.Errorf("%s: exit status %d\n%s", line, out.ExitCode, said)
				}
				class := fmt.Sprintf(`"connection": %q`, w.class)
				if !strings.HasSuffix(line, "json") {
					class = map[bool]string{true: "(" + w.class + ")", false: "class: " + w.class}[args[0] == "verify"]
				}
				if !strings.Contains(said, w.code) || !strings.Contains(said, class) || !strings.Contains(said, "fix") {
					t.Errorf("%s: %s of class %s is not there:\n%s", line, w.code, w.class, said)
				}
				if took > connectionTimeout+grace {
					t.Errorf("%s: %s took %s", line, w.name, took)
				}
			}
		})
	}
}

// serve says the same in its log and in its health report, stays up, and has
// its rows delivered once it is let in.
func TestServeIsNotLetIn(t *testing.T) {
	rig.Real(t)
	k := harness.NewSecureKafka(t)
	r := rig.New(t, rig.Config{Kafka: k.KafkaServer, Partitions: 1})
	r.Init(t)
	for _, w := range wrongnesses(t, k) {
		if !w.serve {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			ctx := within(t, 30*time.Second)
			relay := r.Serve(t, w.env)
			started, err := relay.WaitLog(ctx, rig.Message("outbox-relay starts"))
			if err != nil {
				t.Fatal(err)
			}
			line, err := relay.WaitLog(ctx, rig.Code(w.code))
			if err != nil {
				t.Fatalf("no %s: %v", w.code, err)
			}
			if line["connection"] != w.class || line["why"] == nil || line["hint"] == nil || line["level"] != "warn" {
				t.Errorf("line without class %s, why, hint or level: %v", w.class, line)
			}
			if took := between(t, started, line); took > connectionTimeout+grace {
				t.Errorf("said after %s", took)
			}
			// The check of the report is given 2 s, and a silent port takes them.
			if check := kafkaCheck(ctx, t, relay); check["status"] != "warn" || check["code"] != w.code && w.class != "timeout" || check["hint"] == nil {
				t.Errorf("/api/health says of Kafka %v", check)
			}
			waits(ctx, t, relay, 0, w.code)
			said := answers(ctx, t, relay)
			if !strings.Contains(said, `"connection":"`+w.class+`"`) {
				t.Errorf("no page has class %s:\n%s", w.class, said)
			}
			stop(ctx, t, relay)
			silent(t, said, relay.Stdout(), relay.Stderr())
		})
	}
	ctx := within(t, 30*time.Second)
	r.Insert(t, 3)
	relay := r.Serve(t, environment(k, harness.ListenSHA512, "scram-sha-512"))
	r.AwaitCaughtUp(ctx, t)
	everyRowOnce(ctx, t, r, r.Events)
	stop(ctx, t, relay)
}

// between is the time from one log line to another.
func between(t testing.TB, a, b map[string]any) time.Duration {
	t.Helper()
	var at [2]time.Time
	for i, line := range []map[string]any{a, b} {
		text, _ := line["time"].(string)
		var err error
		if at[i], err = time.Parse(time.RFC3339Nano, text); err != nil {
			t.Fatal(err)
		}
	}
	return at[1].Sub(at[0])
}
