package e2e

import (
	"encoding/json"
	"testing"

	"github.com/holdwall/outbox-relay/test/rig"
)

// Each place where an event can be is named, with a real relay.
func TestExplain(t *testing.T) {
	r := rig.New(t, rig.Config{})
	const never, sent, letter, late = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000003", "00000000-0000-4000-8000-000000000004"
	if out := r.Command(t, "schema", "install"); out.ExitCode != 0 {
		t.Fatal(out.Stderr)
	}
	insert := func(id, topic string) {
		t.Helper()
		r.Database.Exec(t, "INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, payload, topic) VALUES ('"+id+"', 'order', '1', 'placed', '{}', nullif('"+topic+"', ''))")
	}
	insert(never, "") // nobody owes it
	r.Init(t)
	insert(sent, "")
	insert(letter, "__transaction_state")
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.AwaitCaughtUp(t.Context(), t)
	explain := func(id string, status int) (a struct {
		Verdict string
		Records []struct {
			Checkpoint string `json:"checkpoint_seq"`
			LSN        string
			Replayed   string `json:"replayed_at"`
		}
		Letters []struct {
			State string
			Marks []struct{ Action string }
		}
	},
	) {
		t.Helper()
		out := r.Command(t, "explain", id, "-o", "json")
		if err := json.Unmarshal([]byte(out.Stdout), &a); err != nil || out.ExitCode != status {
			t.Fatalf("%d, want %d: %v\n%s%s", out.ExitCode, status, err, out.Stdout, out.Stderr)
		}
		return a
	}
	if a := explain(sent, 0); a.Verdict != "published" || a.Records[0].Checkpoint == "" || a.Records[0].LSN == "" {
		t.Errorf("%+v", a)
	}
	if a := explain(letter, 0); a.Verdict != "dead_letter" || a.Letters[0].State != "open" {
		t.Errorf("%+v", a)
	}
	if a := explain(never, 4); a.Verdict != "missing" {
		t.Errorf("%+v", a)
	}
	if a := explain("nobody", 4); a.Verdict != "unknown" {
		t.Errorf("%+v", a)
	}
	if out := r.Command(t, "dlq", "replay", "--to", r.Events, letter); out.ExitCode != 0 {
		t.Fatal(out.Stderr)
	}
	if a := explain(letter, 0); a.Verdict != "published" || a.Records[0].Replayed == "" || a.Letters[0].State != "replayed" || len(a.Letters[0].Marks) == 0 {
		t.Errorf("%+v", a)
	}
	if err := relay.Term(); err != nil {
		t.Fatal(err)
	}
	if _, err := relay.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	insert(late, "")
	if a := explain(late, 0); a.Verdict != "pending" {
		t.Errorf("%+v", a)
	}
	rig.AwaitStreaming(t, r.Serve(t, nil))
	if a := explain(late, 0); a.Verdict != "published" {
		t.Errorf("%+v", a)
	}
}
