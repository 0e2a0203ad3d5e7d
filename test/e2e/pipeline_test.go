package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// A row becomes a request: relay and pipeline as processes, real servers. What
// the receiver refuses is a letter that the relay's own letters stand beside,
// and both processes end in order when they are told to.
func TestPipelineToWebhook(t *testing.T) {
	ctx := within(t, 50*time.Second)
	r := rig.New(t, rig.Config{})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)

	const rows = 60
	var mu sync.Mutex
	got := map[string][]string{}
	done, n := make(chan struct{}), 0
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		mu.Lock()
		defer mu.Unlock()
		key := req.Header.Get("Outbox-Aggregate-Id")
		got[key] = append(got[key], string(body))
		if req.Header.Get("Outbox-Signature") == "" || req.Header.Get("Idempotency-Key") == "" || req.Header.Get("Outbox-Position") == "" {
			t.Errorf("headers %v", req.Header)
		}
		if string(body) == `{"i": 17}` {
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
		if n++; n == rows {
			close(done)
		}
	}))
	defer hook.Close()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a key of the end-to-end test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := maps.Clone(r.Env)
	delete(env, "DATABASE_URL") // a pipeline needs none
	env["WEBHOOK_URL"], env["WEBHOOK_KEY_FILE"] = hook.URL, key
	// With the topic's prefix, so that no other test shares the group.
	pipe := harness.StartCommand(t, r.Bin, env, "pipeline", "--group", r.Topics.Name("hook"))
	r.Insert(t, rows)
	select {
	case <-done:
	case <-ctx.Done():
		mu.Lock()
		defer mu.Unlock()
		t.Fatalf("%d of %d requests came\n%s", n, rows, pipe.Output(30))
	}
	for status := 0; status != http.StatusOK; {
		if ctx.Err() != nil {
			t.Fatal("the pipeline is not ready")
		}
		status, _ = rig.Ready(ctx, pipe)
	}
	for _, p := range []*harness.Relay{pipe, relay} {
		if err := p.Term(); err != nil {
			t.Fatal(err)
		}
		if exit, err := p.Wait(ctx); err != nil || exit != 0 {
			t.Errorf("exit %d, %v", exit, err)
		}
	}
	want := map[string][]string{}
	for i := 1; i <= rows; i++ {
		k := fmt.Sprintf("k%d", i%10)
		want[k] = append(want[k], fmt.Sprintf(`{"i": %d}`, i))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests by key (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"handler": 1}, r.Reasons(ctx, t)); diff != "" {
		t.Errorf("letters (-want +got):\n%s", diff)
	}
	// A run to the end has nothing left to do.
	if out := harness.RunRelay(t, r.Bin, env, "pipeline", "--group", r.Topics.Name("hook"), "--until-end"); out.ExitCode != 0 {
		t.Errorf("exit %d\n%s", out.ExitCode, out.Stderr)
	}
	if n != rows {
		t.Errorf("%d requests, want %d", n, rows)
	}
}
