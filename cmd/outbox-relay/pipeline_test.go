package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/config"
)

// What is wrong with a command line is said before anything is begun, and
// without the secrets in it.
func TestPipelineMistakes(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		environ []string
		args    string
		says    string
	}{
		"no handler":       {nil, "", "OBX-1004 nobody to hand the events to"},
		"two handlers":     {nil, "--webhook-url http://h/ -- cat", "OBX-1004"},
		"no brokers":       {nil, "-- cat", "OBX-1003 KAFKA_BROKERS"},
		"no Kafka":         {[]string{"KAFKA_ENABLED=false"}, "-- cat", "OBX-1001 KAFKA_ENABLED"},
		"no program":       {nil, "-- /nonexistent/" + "handler", "OBX-2228"},
		"password in flag": {nil, "--webhook-url http://u:" + planted + "@h/", "OBX-1001 --webhook-url holds a password"},
		"bad URL":          {[]string{"WEBHOOK_URL=" + planted}, "", "OBX-1001 the webhook URL"},
		"URL twice":        {[]string{"WEBHOOK_URL=http://h/" + planted, "WEBHOOK_URL_FILE=" + broken}, "", "OBX-1001 WEBHOOK_URL and WEBHOOK_URL_FILE"},
		"empty URL file":   {[]string{"WEBHOOK_URL_FILE=" + broken}, "", "OBX-1001 WEBHOOK_URL_FILE"},
		"short key":        {[]string{"WEBHOOK_KEY=" + planted[:8]}, "--webhook-url http://h/", "OBX-1001 the webhook's signing key"},
		"no key file":      {[]string{"WEBHOOK_KEY=" + planted}, "--webhook-url http://h/ --webhook-key-file /nonexistent", "OBX-1001 the webhook's signing key"},
		"no concurrency":   {nil, "--concurrency 0 -- cat", "OBX-1004 --concurrency"},
		"fewer retries":    {nil, "--retries=-1 -- cat", "OBX-1004 --retries"},
		"no time":          {nil, "--timeout 0s -- cat", "OBX-1004 --timeout"},
		"odd status":       {nil, "--retry-status 200 --webhook-url http://h/", "OBX-1004 --retry-status"},
		"endless end":      {nil, "--once --retry-topic r -- cat", "OBX-1004 --until-end"},
		"letters to self":  {nil, "--topic a --dlq a -- cat", "OBX-1001 set up the pipeline"},
		"odd payload":      {nil, "--payload xml -- cat", "OBX-1004"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			brokers := "KAFKA_BROKERS=127.0.0.1:1"
			if name == "no brokers" {
				brokers = ""
			}
			environ := append([]string{brokers, "HEALTH_ADDR=127.0.0.1:0", "LOG_LEVEL=error"}, c.environ...)
			status, stdout, stderr := try(t, environ, append([]string{"pipeline"}, strings.Fields(c.args)...)...)
			if status != 2 || !strings.Contains(stderr, c.says) {
				t.Errorf("status %d, want 2 and %q:\n%s", status, c.says, stderr)
			}
			if strings.Contains(stdout+stderr, planted[:8]) {
				t.Errorf("the output holds a secret:\n%s%s", stdout, stderr)
			}
		})
	}
}

// A child inherits what handlers need, and none of the pipeline's own secrets.
func TestChildEnvironment(t *testing.T) {
	t.Parallel()
	keep := []string{"PATH=/bin", "DATABASE_URL=postgres://h/d", "KAFKA_BROKERS=a:1"}
	own := []string{"KAFKA_SASL_PASSWORD=x", "KAFKA_SASL_SESSION_TOKEN=x", "OUTBOX_ADMIN_URL=x", "WEBHOOK_KEY=x", "WEBHOOK_URL=x"}
	if got := withoutSecrets(slices.Concat(keep[:1], own, keep[1:])); !slices.Equal(got, keep) {
		t.Errorf("%q", got)
	}
}

// What keeps a pipeline from consuming is in its log and on its health page,
// once, and so is that it consumes again.
func TestPipelineSaysWhyItWaits(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "outbox.events"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	cfg := config.Default()
	cfg.Kafka.Client.Brokers = cluster.ListenAddrs()
	var out output
	s := newPiping(cfg, zerolog.New(&out))
	s.child = true
	if f := s.lookFor(t.Context(), []string{"outbox.events"}); f != nil {
		t.Error(f)
	}
	s.missing = s.lookFor(t.Context(), []string{"outbox.events", "nosuch"})
	missing := s.status()
	if missing.Code != "OBX-5005" || !strings.Contains(missing.Detail, "nosuch") {
		t.Errorf("%+v", missing)
	}
	s.contact.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, syscall.ECONNREFUSED)
	refused := s.status()
	s.contact.OnBrokerRead(kgo.BrokerMetadata{}, int16(kmsg.Heartbeat), 0, 0, 0, nil)
	s.say(health.Status{}, missing)
	s.say(missing, refused)
	s.say(refused, s.status())
	for _, want := range []string{`"code":"OBX-5005"`, `"code":"OBX-5022"`, `"msg":"consuming"`} {
		if strings.Count(out.String(), want) != 1 {
			t.Errorf("%s is not once in:\n%s", want, out.String())
		}
	}
}

// The whole command: events in, requests out, ready meanwhile; told to stop it
// ends with status 0 in time.
func TestPipelineCommand(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "outbox.events"), kfake.SeedTopics(1, "outbox.events.dlq"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ids := make(chan string, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { ids <- r.Header.Get("Idempotency-Key") }))
	defer hook.Close()

	var out output
	signals, status := make(chan os.Signal, 1), make(chan int, 1)
	go func() {
		status <- run(process{
			args: []string{"pipeline", "--group", "g"}, signals: signals, stdin: strings.NewReader(""), stdout: &out, stderr: &out,
			environ: []string{
				"KAFKA_BROKERS=" + strings.Join(cluster.ListenAddrs(), ","), "HEALTH_ADDR=127.0.0.1:0",
				"WEBHOOK_URL=" + strings.Replace(hook.URL, "://", "://u:"+planted+"@", 1), "WEBHOOK_KEY=" + planted, "OUTBOX_DRAIN_TIMEOUT=10s",
			},
			exit: func(int) { t.Error("the process was ended") },
		})
	}()
	for i := range 3 {
		rec := &kgo.Record{Topic: "outbox.events", Value: []byte("{}"), Headers: []kgo.RecordHeader{{Key: "id", Value: fmt.Append(nil, "e-", i)}}}
		if err := cl.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
		select {
		case id := <-ids:
			if id != fmt.Sprint("e-", i) {
				t.Errorf("event %d is %q", i, id)
			}
		case got := <-status:
			t.Fatalf("it ended with status %d\n%s", got, out.String())
		case <-time.After(20 * time.Second):
			t.Fatalf("event %d did not come\n%s", i, out.String())
		}
	}
	awaitReady(t, &out)
	signals <- syscall.SIGTERM
	select {
	case got := <-status:
		if got != 0 {
			t.Errorf("status %d\n%s", got, out.String())
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("it does not end\n%s", out.String())
	}
	// Everything is done, so a run to the end ends, whoever has its address.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	environ := []string{"KAFKA_BROKERS=" + strings.Join(cluster.ListenAddrs(), ","), "HEALTH_ADDR=" + taken.Addr().String()}
	if got, _, stderr := try(t, environ, "pipeline", "--group", "g", "--once", "--", "cat"); got != 0 {
		t.Errorf("status %d\n%s", got, stderr)
	}
	if got, _, _ := try(t, environ, "pipeline", "--group", "g", "--", "cat"); got != 1 {
		t.Errorf("status %d with an address that is taken", got)
	}
	if strings.Contains(out.String(), planted) {
		t.Errorf("the log holds a secret:\n%s", out.String())
	}
}

// awaitReady asks the address that the first log line names.
func awaitReady(t *testing.T, out *output) {
	t.Helper()
	first, _, _ := strings.Cut(out.String(), "\n")
	var line struct{ Health, Webhook string }
	if err := json.Unmarshal([]byte(first), &line); err != nil || line.Health == "" {
		t.Fatalf("%v: %s", err, first)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for client := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}); ; time.Sleep(50 * time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+line.Health+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
	}
}
