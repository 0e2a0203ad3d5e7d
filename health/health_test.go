package health

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "record golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that stands until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock                   { return &clock{t: time.Date(2026, 11, 23, 10, 15, 0, 123e6, time.UTC)} }
func (c *clock) now() time.Time          { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) advance(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.t = c.t.Add(d) }

func get(t *testing.T, h http.Handler, path string, header ...string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

var about = About{Service: "outbox-relay", Version: "1.4.0", Instance: "relay-0"}

func TestProbesByState(t *testing.T) {
	t.Parallel()
	halted := Status{State: "halted", Role: "leader", Halted: true, Code: "OBX-4008", Name: "gap", Detail: "slot 0/2 is ahead of checkpoint 0/1", Why: "the slot was advanced", Fix: "outbox-relay serve --accept-gap <checkpoint>:<slot>"}
	for _, c := range []struct {
		name                          string
		set                           []Status
		live, ready, startup, general int
		word                          string
	}{
		{"at start", nil, 200, 503, 503, 200, Warn},
		{"streaming", []Status{{State: "streaming", Role: "leader", Ready: true, Guarantee: "full"}}, 200, 200, 200, 200, Pass},
		{"degraded", []Status{{State: "streaming", Ready: true, Code: "OBX-5007", Guarantee: "degraded"}}, 200, 200, 200, 200, Warn},
		{"standby", []Status{{State: "standby", Role: "standby", Ready: true}}, 200, 200, 200, 200, Pass},
		{"waits for Kafka, was up", []Status{{State: "streaming", Ready: true}, {State: "backoff", Code: "OBX-5001"}}, 200, 503, 200, 200, Warn},
		{"waits for Kafka, never up", []Status{{State: "backoff", Code: "OBX-5001"}}, 200, 503, 503, 200, Warn},
		{"halted", []Status{halted}, 200, 503, 200, 503, Fail},
		{"halted and said ready", []Status{{State: "halted", Ready: true, Halted: true}}, 200, 503, 200, 503, Fail},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			st := NewState()
			for _, s := range c.set {
				st.Set(s)
			}
			srv := New(Config{}, about, st, nil, nil)
			for path, want := range map[string]int{"/livez": c.live, "/healthz": c.live, "/readyz": c.ready, "/startupz": c.startup, "/api/health": c.general} {
				code, body := get(t, srv, path)
				if code != want {
					t.Errorf("%s: %d, want %d: %s", path, code, want, body)
				}
				if !json.Valid([]byte(body)) {
					t.Errorf("%s: no JSON: %s", path, body)
				}
			}
			var rep report
			_, body := get(t, srv, "/api/health")
			if err := json.Unmarshal([]byte(body), &rep); err != nil || rep.Status != c.word {
				t.Errorf("report says %q, want %q (%v)", rep.Status, c.word, err)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	cl := newClock()
	st := newState(cl.now)
	cl.advance(time.Hour)
	st.Beat()
	st.Set(Status{State: "halted", Role: "leader", Guarantee: "full", Breaker: "closed", Halted: true, Code: "OBX-4008", Name: "gap", Detail: "slot 0/2 is ahead of checkpoint 0/1", Why: "the slot was advanced", Fix: "outbox-relay serve --accept-gap <checkpoint>:<slot>"})
	cl.advance(40 * time.Second)
	srv := New(Config{}, about, st, map[string]Check{
		"postgres": func(context.Context) Result {
			return Result{Facts: map[string]any{"server_version": "17.5", "latency_seconds": 0.0007}}
		},
		"lag": func(context.Context) Result {
			return Result{Status: Warn, Code: "OBX-4201", Hint: "72 s behind", Facts: map[string]any{"seconds": 72.4}}
		},
		"kafka":  func(context.Context) Result { return Result{Status: Disabled} },
		"broken": func(context.Context) Result { panic("index out of range") },
	}, nil)
	var out strings.Builder
	for _, q := range []struct{ path, accept string }{
		{"/livez", ""}, {"/readyz", ""}, {"/readyz?verbose", ""}, {"/startupz", ""}, {"/api/health", ""}, {"/api/health", "application/health+json"}, {"/nothing", ""},
	} {
		code, body := get(t, srv, q.path, "Accept", q.accept)
		out.WriteString("== " + q.path + " " + q.accept + " " + http.StatusText(code) + "\n")
		var v any
		if json.Unmarshal([]byte(body), &v) == nil {
			enc := json.NewEncoder(&out)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			_ = enc.Encode(v)
		} else {
			out.WriteString(body)
		}
	}
	golden(t, "answers", out.String())
}

func TestReportForPagesIsAlways200(t *testing.T) {
	t.Parallel()
	st := NewState()
	st.Set(Status{State: "failed", Halted: true, Code: "OBX-4008"})
	srv := New(Config{}, about, st, nil, nil)
	srv.Handle("GET /more", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for path, want := range map[string]int{"/api/health": 503, "/api/health?always=200": 200, "/api/health?always=1": 503, "/more": 418} {
		code, body := get(t, srv, path)
		if code != want || path != "/more" && !strings.Contains(body, `"status":"fail"`) {
			t.Errorf("%s: %d, want %d: %s", path, code, want, body)
		}
	}
}

func TestLivenessIsTheBeatAlone(t *testing.T) {
	t.Parallel()
	cl := newClock()
	st := newState(cl.now)
	srv := New(Config{}, about, st, nil, nil)
	for _, step := range []struct {
		after time.Duration
		beat  bool
		want  int
	}{{30 * time.Second, false, 200}, {time.Second, false, 503}, {time.Hour, true, 200}, {30 * time.Second, false, 200}, {time.Millisecond, false, 503}} {
		cl.advance(step.after)
		if step.beat {
			st.Beat()
		}
		if code, body := get(t, srv, "/livez"); code != step.want {
			t.Errorf("%d, want %d: %s", code, step.want, body)
		}
	}
}

func TestSinceIsKeptWithinAState(t *testing.T) {
	t.Parallel()
	cl := newClock()
	st := newState(cl.now)
	start := cl.now()
	cl.advance(time.Minute)
	st.Set(Status{State: "starting", Role: "leader"})
	if got := st.Get().Since; !got.Equal(start) {
		t.Errorf("same state: since %s", got)
	}
	st.Set(Status{State: "streaming"})
	if got := st.Get().Since; !got.Equal(start.Add(time.Minute)) {
		t.Errorf("new state: since %s", got)
	}
}

func TestChecksRunOnceASecondAndNeverHang(t *testing.T) {
	t.Parallel()
	cl := newClock()
	var runs atomic.Int32
	c := &checks{now: cl.now, byName: map[string]Check{
		"counted": func(context.Context) Result { runs.Add(1); return Result{} },
		"stuck":   func(ctx context.Context) Result { <-ctx.Done(); return Result{Status: Fail} },
	}}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	first := c.results(gone)
	if s := first["stuck"].Status; s != Warn && s != Fail {
		t.Errorf("stuck: %q", s)
	}
	if first["counted"].Status != Pass {
		t.Errorf("counted: %+v; whoever asked had gone, but the answer is for all", first["counted"])
	}
	c.results(context.Background())
	cl.advance(time.Second)
	delete(c.byName, "stuck")
	c.results(context.Background())
	if n := runs.Load(); n != 2 {
		t.Errorf("%d runs, want 2", n)
	}
}

func TestServerServesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	srv := New(Config{Addr: "127.0.0.1:0"}, about, NewState(), nil, nil)
	addr, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := srv.Listen(); err != nil || again.String() != addr.String() {
		t.Errorf("a second Listen: %v, %v", again, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	cl := &http.Client{Transport: &http.Transport{}}
	resp, err := cl.Get("http://" + addr.String() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", resp.StatusCode, resp.Header)
	}

	second := New(Config{Addr: addr.String()}, about, NewState(), nil, nil)
	var bind *BindError
	if err := second.Run(ctx); !errors.As(err, &bind) || bind.Addr != addr.String() || !strings.Contains(err.Error(), "HEALTH_ADDR") {
		t.Errorf("the taken address: %v", err)
	}
	cl.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

// A listener that breaks ends Run with an error and leaves nothing behind.
func TestServerWhoseListenerBreaks(t *testing.T) {
	t.Parallel()
	srv := New(Config{Addr: "127.0.0.1:0"}, about, NewState(), nil, nil)
	if _, err := srv.Listen(); err != nil {
		t.Fatal(err)
	}
	srv.listener.Close()
	if err := srv.Run(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestStateUnderRace(t *testing.T) {
	t.Parallel()
	st := NewState()
	srv := New(Config{}, about, st, nil, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				st.Beat()
				st.Set(Status{State: "streaming", Ready: true})
				get(t, srv, "/readyz?verbose")
				get(t, srv, "/livez")
			}
		})
	}
	wg.Wait()
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	for addr, ok := range map[string]bool{"127.0.0.1:8080": true, ":8080": true, "[::1]:0": true, "localhost:1": true, "8080": false, "": false, "a:b": false, "a:70000": false, "a:00": false} {
		if err := (Config{Addr: addr}).Validate(); (err == nil) != ok {
			t.Errorf("%q: %v", addr, err)
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
