package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/holdwall/outbox-relay/test/rig"
)

// The verbs on slots with a relay that has a checkpoint: what would lose events
// is refused with the range, and done when the range is repeated.
func TestSlotVerbs(t *testing.T) {
	r := rig.New(t, rig.Config{})
	refuses(t, r, "OBX-3403", 6, "slot", "create", "--yes", r.Slot)
	if p := look(t, r, ""); p.Next != "outbox-relay init" || p.Findings[0].Code != "OBX-4001" {
		t.Errorf("before init: %+v", p)
	}
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 10)
	r.AwaitCaughtUp(t.Context(), t)
	if p := look(t, r, relay.HealthURL()); p.Next != "none needed" || p.Process.Value.State != "streaming" || p.Kafka.Value.Checkpoint.Rows != 10 {
		t.Errorf("while it streams: %+v", p)
	}
	refuses(t, r, "OBX-3102", 3, "slot", "drop", "--yes", r.Slot)

	var view struct {
		Outlook struct{ Verdict string }
		Holder  string
	}
	out := r.Command(t, "slot", "inspect", "-o", "json")
	if err := json.Unmarshal([]byte(out.Stdout), &view); err != nil || view.Outlook.Verdict != "moves" || view.Holder == "" {
		t.Fatalf("%v: %s", err, out.Stdout)
	}
	if err := relay.Term(); err != nil {
		t.Fatal(err)
	}
	if _, err := relay.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What is in Kafka can be confirmed for the relay.
	if out := r.Command(t, "slot", "advance", "--yes", r.Slot); out.ExitCode != 0 {
		t.Fatalf("advance to the checkpoint: %s", out.Stderr)
	}
	r.Insert(t, 5)
	refuses(t, r, "OBX-3400", 2, "slot", "advance")
	at := r.Peek(t.Context(), t).Last.Pos.EndLSN.String()
	out = r.Command(t, "slot", "drop", "--yes", r.Slot)
	if out.ExitCode != 6 || !strings.Contains(out.Stderr, "OBX-3401") || !strings.Contains(out.Stderr, "still send 5 rows") || !strings.Contains(out.Stderr, "--accept-gap "+at+":") {
		t.Fatalf("%d: %s", out.ExitCode, out.Stderr)
	}
	// Kafka is away: the same wants a range that says so.
	away := *r
	away.Env = map[string]string{}
	for k, v := range r.Env {
		away.Env[k] = v
	}
	away.Env["KAFKA_BROKERS"], away.Env["KAFKA_CONNECTION_TIMEOUT"] = "127.0.0.1:1", "500"
	if p := look(t, &away, "http://127.0.0.1:1"); p.Process.Error == nil || p.Kafka.Error == nil || p.Kafka.Error.Code != "OBX-5022" {
		t.Errorf("Kafka and relay are away: %+v", p)
	}
	if out := away.Command(t, "slot", "drop", "--yes", r.Slot); out.ExitCode != 6 || !strings.Contains(out.Stderr, "--accept-gap unknown:") {
		t.Fatalf("%d: %s", out.ExitCode, out.Stderr)
	}
	_, gap, _ := strings.Cut(out.Stderr, "--accept-gap ")
	gap, _, _ = strings.Cut(gap, "\n")
	if out := r.Command(t, "slot", "drop", "--yes", r.Slot, "--accept-gap", gap); out.ExitCode != 0 {
		t.Fatalf("%d: %s", out.ExitCode, out.Stderr)
	}
	refuses(t, r, "OBX-3101", 6, "serve", "--exit-on-halt")
	refuses(t, r, "OBX-3401", 6, "slot", "create", "--yes", r.Slot)
	out = r.Command(t, "slot", "create", "--yes", r.Slot, "--accept-gap", at+":new", "-o", "json")
	var made struct{ LSN, Next string }
	if err := json.Unmarshal([]byte(out.Stdout), &made); err != nil || made.Next != "outbox-relay serve --accept-gap "+at+":"+made.LSN {
		t.Fatalf("%v: %s %s", err, out.Stdout, out.Stderr)
	}
	rig.AwaitStreaming(t, r.Serve(t, nil, "--accept-gap", at+":"+made.LSN))
	r.Insert(t, 1)
	r.AwaitCaughtUp(t.Context(), t)
	if n := r.Count(t.Context(), t, r.Events); n != 11 {
		t.Errorf("%d events, want the 10 before and the one after the gap", n)
	}
}

// picture is what status says.
type picture struct {
	Process struct {
		Value *struct{ State string }
		Error *struct{ Code string }
	}
	Kafka struct {
		Value *struct {
			Checkpoint *struct {
				Rows uint64 `json:"rows_total"`
			}
		}
		Error *struct{ Code string }
	}
	Findings []struct{ Code string }
	Next     string
}

func look(t *testing.T, r *rig.Rig, url string) (p picture) {
	t.Helper()
	args := []string{"status", "-o", "json"}
	if url != "" {
		args = append(args, "--url", url)
	}
	out := r.Command(t, args...)
	if err := json.Unmarshal([]byte(out.Stdout), &p); err != nil {
		t.Fatalf("%v: %s\n%s", err, out.Stdout, out.Stderr)
	}
	if want := map[bool]int{true: 4, false: 0}[len(p.Findings) > 0]; out.ExitCode != want {
		t.Errorf("exit status %d, want %d", out.ExitCode, want)
	}
	return p
}
