package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/rig"
)

// Whoever has passed the gate finds their events in Kafka: by command, by HTTP
// and by the library.
func TestWaitAndDrain(t *testing.T) {
	r := rig.New(t, rig.Config{})
	r.Init(t)
	r.Insert(t, 20)
	refuses(t, r, "OBX-4350", 3, "wait", "--timeout", "100ms")
	relay := r.Serve(t, nil)
	if out := r.Command(t, "drain", "--timeout", "60s", "-o", "json"); out.ExitCode != 0 {
		t.Fatalf("%d %s", out.ExitCode, out.Stderr)
	}
	if n := r.Count(t.Context(), t, r.Events); n != 20 {
		t.Errorf("after drain: %d events, want 20", n)
	}
	conn := r.Conn(t)
	for i := range 5 {
		r.Insert(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if p, err := outbox.Wait(ctx, conn, r.Slot, ""); err != nil {
			t.Fatalf("%v %+v", err, p)
		}
		cancel()
		if n := r.Count(t.Context(), t, r.Events); n != 21+i {
			t.Errorf("after Wait: %d events, want %d", n, 21+i)
		}
	}
	r.Insert(t, 1)
	resp, err := http.Get(relay.HealthURL() + "/api/wait?timeout=60s")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct{ Reached bool }
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || resp.StatusCode != http.StatusOK || !body.Reached {
		t.Errorf("%v %d %+v", err, resp.StatusCode, body)
	}
	if n := r.Count(t.Context(), t, r.Events); n != 26 {
		t.Errorf("after /api/wait: %d events, want 26", n)
	}
}
