package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "correct-horse-battery-staple"

func server(cfg Config) (*Server, *bytes.Buffer) {
	var log bytes.Buffer
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:8081"
	}
	s := New(cfg, zerolog.New(&log))
	s.Open("GET /open", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { Answer(w, map[string]any{"open": true}) }))
	s.Guarded("GET /closed", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { Answer(w, map[string]any{"closed": true}) }))
	s.Verb("/api/do", func(_ context.Context, r *http.Request, by string) (any, error) {
		var asked struct {
			Fail string `json:"fail"`
		}
		if f := Read(r, &asked); f != nil {
			return nil, f
		}
		switch asked.Fail {
		case "unknown":
			return nil, fault.New(fault.LetterUnknown, "no letter")
		case "odd":
			return nil, errors.New("odd")
		}
		return map[string]any{"by": by}, nil
	})
	return s, &log
}

func ask(h http.Handler, method, path, body string, header ...string) (int, map[string]any) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "127.0.0.1:8081"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var m map[string]any
	_ = json.Unmarshal(w.Body.Bytes(), &m)
	return w.Code, m
}

func code(m map[string]any) string {
	e, _ := m["error"].(map[string]any)
	s, _ := e["code"].(string)
	return s
}

func TestWhoComesIn(t *testing.T) {
	t.Parallel()
	with, without := Config{Token: secret.New(token)}, Config{}
	bearer := "Bearer " + token
	for _, c := range []struct {
		name         string
		cfg          Config
		method, path string
		body         string
		header       []string
		status       int
		code         string
	}{
		{"open without a token", without, "GET", "/open", "", nil, 200, ""},
		{"closed, and no token is set", without, "GET", "/closed", "", []string{"Authorization", bearer}, 403, "OBX-1040"},
		{"verb, and no token is set", without, "POST", "/api/do", "", []string{"Authorization", bearer}, 403, "OBX-1040"},
		{"pprof, and no token is set", without, "GET", "/debug/pprof/", "", nil, 403, "OBX-1040"},
		{"an empty token, and none is set", without, "POST", "/api/do", "", []string{"Authorization", "Bearer "}, 403, "OBX-1040"},
		{"no token given", with, "POST", "/api/do", "", nil, 401, "OBX-1041"},
		{"another token", with, "POST", "/api/do", "", []string{"Authorization", bearer + "r"}, 401, "OBX-1041"},
		{"a part of it", with, "POST", "/api/do", "", []string{"Authorization", bearer[:len(bearer)-1]}, 401, "OBX-1041"},
		{"not bearer", with, "POST", "/api/do", "", []string{"Authorization", token}, 401, "OBX-1041"},
		{"in the address", with, "POST", "/api/do?token=" + token, "", nil, 401, "OBX-1041"},
		{"in a cookie", with, "POST", "/api/do", "", []string{"Cookie", "token=" + token}, 401, "OBX-1041"},
		{"basic for a verb", with, "POST", "/api/do", "", []string{"Authorization", basic("x", token)}, 401, "OBX-1041"},
		{"basic for pprof", with, "GET", "/debug/pprof/", "", []string{"Authorization", basic("x", token)}, 200, ""},
		{"wrong basic for pprof", with, "GET", "/debug/pprof/", "", []string{"Authorization", basic(token, "x")}, 401, "OBX-1041"},
		{"the token", with, "POST", "/api/do", "", []string{"Authorization", bearer}, 200, ""},
		{"the token, closed", with, "GET", "/closed", "", []string{"Authorization", bearer}, 200, ""},
		{"GET of a verb", with, "GET", "/api/do", "", []string{"Authorization", bearer}, 405, "OBX-1044"},
		{"same origin", with, "POST", "/api/do", "", []string{"Authorization", bearer, "Origin", "http://127.0.0.1:8081", "Sec-Fetch-Site", "same-origin"}, 200, ""},
		{"another origin", with, "POST", "/api/do", "", []string{"Authorization", bearer, "Origin", "http://evil.example"}, 403, "OBX-1043"},
		{"another port", with, "POST", "/api/do", "", []string{"Authorization", bearer, "Origin", "http://127.0.0.1:8080"}, 403, "OBX-1043"},
		{"null origin", with, "POST", "/api/do", "", []string{"Authorization", bearer, "Origin", "null"}, 403, "OBX-1043"},
		{"another site", with, "POST", "/api/do", "", []string{"Authorization", bearer, "Sec-Fetch-Site", "cross-site"}, 403, "OBX-1043"},
		{"another site, open", with, "GET", "/open", "", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403, "OBX-1043"},
		{"a link from another site", with, "GET", "/open", "", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200, ""},
		{"a name that was pointed here", with, "GET", "/open", "", []string{"Host", "evil.example:8081"}, 403, "OBX-1043"},
		{"localhost", with, "GET", "/open", "", []string{"Host", "localhost:9999"}, 200, ""},
		{"IPv6", with, "GET", "/open", "", []string{"Host", "[::1]:8081"}, 200, ""},
		{"any name on an open address", Config{Addr: ":8081", Token: secret.New(token)}, "GET", "/open", "", []string{"Host", "relay-0:8081"}, 200, ""},
		{"no JSON", with, "POST", "/api/do", "{", []string{"Authorization", bearer}, 400, "OBX-1044"},
		{"unknown field", with, "POST", "/api/do", `{"fial":"x"}`, []string{"Authorization", bearer}, 400, "OBX-1044"},
		{"something behind it", with, "POST", "/api/do", `{} {}`, []string{"Authorization", bearer}, 400, "OBX-1044"},
		{"a form", with, "POST", "/api/do", "a=b", []string{"Authorization", bearer, "Content-Type", "application/x-www-form-urlencoded"}, 400, "OBX-1044"},
		{"too long", with, "POST", "/api/do", `{"fail":"` + strings.Repeat("x", maxBody) + `"}`, []string{"Authorization", bearer}, 400, "OBX-1044"},
		{"what the verb says", with, "POST", "/api/do", `{"fail":"unknown"}`, []string{"Authorization", bearer}, 404, "OBX-2100"},
		{"what nobody knows", with, "POST", "/api/do", `{"fail":"odd"}`, []string{"Authorization", bearer}, 500, "OBX-9001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, log := server(c.cfg)
			status, body := ask(s, c.method, c.path, c.body, c.header...)
			if status != c.status || code(body) != c.code {
				t.Errorf("%d %v, want %d %s", status, body, c.status, c.code)
			}
			if c.code != "" {
				if e := body["error"].(map[string]any); e["why"] == "" || e["fix"] == "" {
					t.Errorf("without why or fix: %v", body)
				}
			}
			if strings.Contains(log.String(), token) {
				t.Errorf("the token is in the log: %s", log)
			}
		})
	}
}

func basic(user, password string) string {
	r, _ := http.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

func TestEachVerbLeavesALine(t *testing.T) {
	t.Parallel()
	s, log := server(Config{Token: secret.New(token)})
	_, body := ask(s, "POST", "/api/do", "", "Authorization", "Bearer "+token, "X-Outbox-By", "ann\x1b[31m")
	if body["by"] != "ann[31m" {
		t.Errorf("by %q", body["by"])
	}
	ask(s, "POST", "/api/do", `{"fail":"unknown"}`, "Authorization", "Bearer "+token)
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), log)
	}
	for i, want := range []string{`"verb":"do","by":"ann[31m"`, `"code":"OBX-2100","verb":"do","by":"admin"`} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %s lacks %s", lines[i], want)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		addr, token string
		want        string // the code
	}{
		{"127.0.0.1:8081", "", ""},
		{"localhost:1", "", ""},
		{"[::1]:1", "", ""},
		{"off", "", ""},
		{"OFF", "", ""},
		{"", "", ""},
		{":8081", token, ""},
		{":8081", "", "OBX-1042"},
		{"0.0.0.0:8081", "", "OBX-1042"},
		{"10.0.0.7:8081", "", "OBX-1042"},
		{"relay:8081", "", "OBX-1042"},
		{"8081", "", "OBX-1001"},
		{"127.0.0.1:x", token, "OBX-1001"},
		{"127.0.0.1:8081", "short", "OBX-1001"},
		{"127.0.0.1:8081", "with space and more", "OBX-1001"},
		{"off", "short", "OBX-1001"},
	} {
		cfg := Config{Addr: c.addr}
		if c.token != "" {
			cfg.Token = secret.New(c.token)
		}
		got := ""
		for _, f := range cfg.Validate() {
			got += f.Code.ID
			if strings.Contains(f.Text(), c.token) && c.token != "" {
				t.Errorf("the token is shown: %s", f.Text())
			}
		}
		if got != c.want {
			t.Errorf("%q with token %t: %q, want %q", c.addr, c.token != "", got, c.want)
		}
	}
}

func TestRunServesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	s, _ := server(Config{Addr: "127.0.0.1:0"})
	addr, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	var bind *BindError
	if _, err := New(Config{Addr: addr.String()}, zerolog.Nop()).Listen(); !errors.As(err, &bind) || !strings.Contains(err.Error(), "ADMIN_ADDR") {
		t.Errorf("the taken address: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	cl := &http.Client{Transport: &http.Transport{}}
	resp, err := cl.Get("http://" + addr.String() + "/api/admin")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != `{"admin":true,"token_set":false}`+"\n" {
		t.Errorf("%s", body)
	}
	// Somebody who never ends his headers does not hold up the end.
	slow, err := net.DialTimeout("tcp", addr.String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	_, _ = io.WriteString(slow, "GET / HTTP/1.1\r\n")
	cl.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopped with %v", err)
	}
}
