package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/admin"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// A replica that is told not to relay answers all the same, and says of what it
// cannot do why.
func TestListenersOfAReplicaWithoutKafka(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const token = "correct-horse-battery-staple"
	signals, lines := make(chan os.Signal, 1), make(chan map[string]any, 100)
	r, w := io.Pipe()
	go func() {
		defer close(lines)
		for dec := json.NewDecoder(r); ; {
			var line map[string]any
			if dec.Decode(&line) != nil {
				return
			}
			select {
			case lines <- line:
			default:
			}
		}
	}()
	status := make(chan int, 1)
	go func() {
		defer w.Close()
		status <- run(process{
			args: []string{"serve"}, signals: signals, exit: func(int) {}, stdin: strings.NewReader(""), stdout: io.Discard, stderr: w,
			environ: []string{
				"DATABASE_URL=postgres://nobody:hunter2hunter2@127.0.0.1:1/none", "KAFKA_ENABLED=false", "LOG_FORMAT=json",
				"HEALTH_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "ADMIN_TOKEN=" + token,
			},
		})
	}()
	first := <-lines
	health, _ := first["health"].(string)
	cl := &http.Client{Transport: &http.Transport{}}
	ask := func(method, addr, path, body string) (int, map[string]any, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := cl.Do(req)
		if err != nil {
			t.Fatalf("%v: %v", err, first)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Errorf("%s %s: %v: %s", method, path, err, text)
		}
		return resp.StatusCode, m, string(text)
	}
	_, report, _ := ask("GET", health, "/api/health", "")
	checks, _ := report["checks"].(map[string]any)
	if kafka, _ := checks["kafka"].(map[string]any); kafka["status"] != "disabled" {
		t.Errorf("checks %v, want kafka disabled", checks)
	}
	_, st, _ := ask("GET", health, "/api/status", "")
	at, _ := st["admin"].(map[string]any)
	admin, _ := at["addr"].(string)
	if st["state"] != "disabled" || admin == "" || at["token_set"] != true || len(st["config_fingerprint"].(string)) != 12 {
		t.Fatalf("status %v", st)
	}
	for path, body := range map[string]string{"/api/dlq/replay": `{"ids":["x"]}`, "/api/pause": "", "/api/resume": ""} {
		code, answer, text := ask("POST", admin, path, body)
		if path == "/api/dlq/replay" && (code != http.StatusServiceUnavailable || !strings.Contains(text, fault.AdminUnavailable.ID)) {
			t.Errorf("%s: %d %v", path, code, answer)
		}
		if code == http.StatusOK {
			t.Errorf("%s: %d %v without a database", path, code, answer)
		}
	}
	if code, _, text := ask("POST", admin, "/api/dlq/replay", `{}`); code != http.StatusBadRequest || !strings.Contains(text, fault.AdminRequest.ID) {
		t.Errorf("a replay of nothing: %d %s", code, text)
	}
	if code, _, text := ask("GET", admin, "/api/dlq?state=none", ""); code != http.StatusServiceUnavailable && code != http.StatusBadRequest {
		t.Errorf("a state that does not exist: %d %s", code, text)
	}
	code, config, text := ask("GET", admin, "/api/config", "")
	if code != http.StatusOK || config["fingerprint"] != st["config_fingerprint"] || strings.Contains(text, "hunter2") || strings.Contains(text, token) {
		t.Errorf("config: %d %s", code, text)
	}
	cl.CloseIdleConnections()
	signals <- os.Interrupt
	if got := <-status; got != 0 {
		t.Errorf("exit status %d", got)
	}
	for range lines {
	}
}

// Letters over HTTP are what the commands show and do.
func TestLettersOverHTTP(t *testing.T) {
	env := letterBroker(t)
	cfg := config.Default()
	cfg.Kafka.Client.Brokers = strings.Split(strings.TrimPrefix(env[0], "KAFKA_BROKERS="), ",")
	s := &service{parts: newParts(cfg, zerolog.Nop()), state: health.NewState()}
	srv := admin.New(admin.Config{Addr: ":0", Token: secret.New("correct-horse-battery-staple")}, zerolog.Nop())
	if err := s.letterRoutes(srv); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		has, not           string
	}{
		{"GET", "/api/dlq", "", 200, `"id":"e1"`, "secret"},
		{"GET", "/api/dlq?max=1", "", 200, `"more":true`, "e2"},
		{"GET", "/api/dlq?id=e2&payload=true", "", 200, `"payload":"{\"secret\": \"e2\"}"`, "e1"},
		{"GET", "/api/dlq?id=e2&payload=true", "", 200, `"key":"4711"`, "payload_base64"},
		{"GET", "/api/dlq?reason=invalid_topic", "", 200, `"id":"e2"`, "e1"},
		{"GET", "/api/dlq?reason=big", "", 400, "OBX-1044", ""},
		{"GET", "/api/dlq?state=none", "", 400, "OBX-1044", ""},
		{"GET", "/api/dlq?max=501", "", 400, "OBX-1044", ""},
		{"GET", "/api/dlq?since=soon", "", 400, "OBX-1044", ""},
		{"POST", "/api/dlq/replay", `{"ids":["nobody"]}`, 404, "OBX-2100", ""},
		{"POST", "/api/dlq/replay", `{"ids":["e1"],"to":"__consumer_offsets"}`, 400, "OBX-1004", ""},
		{"POST", "/api/dlq/replay", `{"ids":["e1"],"from_table":true}`, 400, "OBX-1003", ""},
		{"POST", "/api/dlq/replay", `{"ids":["e1"],"dry_run":true}`, 200, `"dry_run": true`, ""},
		{"POST", "/api/dlq/replay", `{"ids":["e1","e2"]}`, 200, `OBX-2003`, ""},
		{"GET", "/api/dlq?state=replayed", "", 200, `"id":"e1"`, "e2"},
		{"GET", "/api/dlq?state=all&id=e1", "", 200, `"state":"replayed"`, ""},
		{"POST", "/api/dlq/replay", `{"ids":["e4"]}`, 200, `"parked": 1`, ""},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.Header.Set("Authorization", "Bearer correct-horse-battery-staple")
		r.Header.Set("X-Outbox-By", "ann")
		if c.body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		w := httptest.NewRecorder()
		srv.ServeHTTP(w, r)
		body := strings.ReplaceAll(w.Body.String(), `": `, `":`)
		if has := strings.ReplaceAll(c.has, `": `, `":`); w.Code != c.status || !strings.Contains(body, has) || c.not != "" && strings.Contains(body, c.not) {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, w.Code, w.Body)
		}
	}
	_, out, _ := try(t, env, "dlq", "show", "e1")
	if !strings.Contains(out, "by ann@") {
		t.Errorf("who replayed it is not in the mark: %s", out)
	}
}
