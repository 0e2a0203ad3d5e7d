package e2e

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/test/rig"
)

// history is a relay that has relayed three rows and was stopped.
func history(ctx context.Context, t testing.TB) *rig.Rig {
	t.Helper()
	r := rig.New(t, rig.Config{Partitions: 1})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 3)
	r.AwaitCaughtUp(ctx, t)
	stop(ctx, t, relay)
	return r
}

func dropSlot(t testing.TB, r *rig.Rig) {
	t.Helper()
	r.Database.Exec(t, `SELECT pg_drop_replication_slot('`+r.Slot+`')`)
}

func createSlot(t testing.TB, r *rig.Rig) {
	t.Helper()
	r.Database.Exec(t, `SELECT pg_create_logical_replication_slot('`+r.Slot+`', 'pgoutput')`)
}

// A checkpoint without its slot: rows may be lost, so nobody makes a new slot,
// neither serve nor init, and starting again does not help.
func TestSlotDropped(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := history(ctx, t)
	dropSlot(t, r)
	line := halts(t, r, "OBX-3101")
	if text := line["error"].(string); !strings.Contains(text, "checkpoint ") {
		t.Errorf("the checkpoint is not named: %s", text)
	}
	halts(t, r, "OBX-3101")
	refuses(t, r, "OBX-3101", 6, "init")
	refuses(t, r, "OBX-3101", 6, "slot", "inspect")
}

// The same under a relay that runs: it loses its connection, comes back, and
// halts.
func TestSlotDroppedWhileRunning(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 3)
	r.AwaitCaughtUp(ctx, t)
	// In one statement, or the relay is back before the drop.
	r.Database.Exec(t, `DO $$ BEGIN
	    PERFORM pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '`+r.Slot+`';
	    PERFORM pg_drop_replication_slot('`+r.Slot+`'); END $$`)
	halted(t, relay, "OBX-3101")
	if n := r.Count(ctx, t, r.Events); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}

// Neither slot nor checkpoint: init was never run here, and that is said
// instead of "slot missing", whether there is a checkpoint topic or not.
func TestNeverInitialised(t *testing.T) {
	for _, topic := range []bool{false, true} {
		r := rig.New(t, rig.Config{Partitions: 1})
		r.Database.Exec(t, `CREATE SCHEMA outbox`, `CREATE TABLE outbox.events (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb)`,
			`CREATE PUBLICATION outbox_pub FOR TABLE outbox.events WITH (publish = 'insert')`)
		if topic {
			r.Topics.Create(t, "checkpoint", 1, map[string]string{"cleanup.policy": "compact"})
		}
		line := halts(t, r, "OBX-4001")
		if !strings.Contains(line["hint"].(string), "init") {
			t.Errorf("hint is %v", line["hint"])
		}
		refuses(t, r, map[bool]string{false: "OBX-5005", true: "OBX-4001"}[topic], map[bool]int{false: 3, true: 6}[topic], "checkpoint", "show")
	}
}

var gapNumbers = regexp.MustCompile(`--accept-gap ([0-9A-F]+/[0-9A-F]+):([0-9A-F]+/[0-9A-F]+)`)

// A slot made anew begins behind rows that nobody read. The relay says which
// range that is, and goes on only when told exactly that.
func TestSlotRecreated(t *testing.T) {
	ctx := within(t, 40*time.Second)
	r := history(ctx, t)
	dropSlot(t, r)
	r.Insert(t, 2) // lost: no slot keeps them
	createSlot(t, r)
	line := halts(t, r, "OBX-4008")
	m := gapNumbers.FindStringSubmatch(line["hint"].(string))
	if m == nil {
		t.Fatalf("no range in the hint: %v", line["hint"])
	}
	st := r.Peek(ctx, t)
	confirmed, _ := r.Confirmed(ctx, t)
	if m[1] != st.Last.Pos.EndLSN.String() || m[2] != confirmed.String() {
		t.Errorf("range %s:%s, want %s:%s", m[1], m[2], st.Last.Pos.EndLSN, confirmed)
	}
	if text := line["error"].(string); !strings.Contains(text, m[1]) || !strings.Contains(text, m[2]) {
		t.Errorf("the error does not name the range: %s", text)
	}
	halts(t, r, "OBX-4008") // a restart does not pass it
	halts(t, r, "OBX-4013", "--accept-gap", m[1]+":"+m[1])

	gap := m[1] + ":" + m[2]
	relay := r.Serve(t, nil, "--accept-gap", gap)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 4)
	r.AwaitCaughtUp(ctx, t)
	stop(ctx, t, relay)
	if n := r.Count(ctx, t, r.Events); n != 7 {
		t.Errorf("%d events, want the 3 before the gap and the 4 behind it", n)
	}
	var audit []string
	r.Each(ctx, t, r.Checkpoint, func(rec *kgo.Record) {
		if kind, _ := checkpoint.KindOf(rec.Key); kind != checkpoint.Lane {
			return
		}
		ck, err := checkpoint.Decode(rec)
		if err != nil {
			t.Error(err)
		}
		if ck.Override != "" {
			audit = append(audit, ck.Override)
		}
	})
	if len(audit) != 1 || audit[0] != "accept-gap "+gap {
		t.Errorf("audit records are %q, want one for %s", audit, gap)
	}
	relay = r.Serve(t, nil) // the gap is behind it now
	rig.AwaitStreaming(t, relay)
	stop(ctx, t, relay)

	// The permission was for that gap alone.
	dropSlot(t, r)
	r.Insert(t, 1)
	createSlot(t, r)
	halts(t, r, "OBX-4013", "--accept-gap", gap)
}

// A slot moved on by hand, past rows that nobody read.
func TestSlotAdvanced(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := history(ctx, t)
	r.Insert(t, 2)
	r.Database.Exec(t, `SELECT pg_replication_slot_advance('`+r.Slot+`', pg_current_wal_lsn())`)
	line := halts(t, r, "OBX-4008")
	if !gapNumbers.MatchString(line["hint"].(string)) {
		t.Errorf("no range in the hint: %v", line["hint"])
	}
	if n := r.Count(ctx, t, r.Events); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}

func deleteCheckpoint(t testing.TB, r *rig.Rig) {
	t.Helper()
	admin(t, r, func(ctx context.Context, adm *kadm.Client) error {
		_, err := adm.DeleteTopic(ctx, r.Checkpoint)
		return err
	})
}

// The checkpoint topic is gone: nobody makes it anew, and an empty one in its
// place is no checkpoint either.
func TestCheckpointTopicDeleted(t *testing.T) {
	ctx := within(t, 40*time.Second)
	r := history(ctx, t)
	r.Insert(t, 2)
	before, _ := r.Confirmed(ctx, t)
	deleteCheckpoint(t, r)
	r.Env["KAFKA_CREATE_TOPICS"] = "true"
	line := halts(t, r, "OBX-4002")
	if text := line["error"].(string); !strings.Contains(text, r.Checkpoint) {
		t.Errorf("the topic is not named: %s", text)
	}
	r.Topics.Create(t, "checkpoint", 1, map[string]string{"cleanup.policy": "compact"})
	halts(t, r, "OBX-4002")
	refuses(t, r, "OBX-4002", 6, "init")
	if after, _ := r.Confirmed(ctx, t); after != before {
		t.Errorf("the slot was moved from %s to %s", before, after)
	}
	if n := r.Count(ctx, t, r.Events); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}

// The same under a relay that runs: its next commit fails, and the session
// after that halts.
func TestCheckpointTopicDeletedWhileRunning(t *testing.T) {
	ctx := within(t, 40*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 3)
	r.AwaitCaughtUp(ctx, t)
	deleteCheckpoint(t, r)
	r.Insert(t, 2)
	// The client asks for the topic a few times, five seconds apart.
	if _, err := relay.WaitLog(ctx, rig.Message("halted")); err != nil {
		t.Fatal(err)
	}
	halted(t, relay, "OBX-4002")
	if n := r.Count(ctx, t, r.Events); n != 3 {
		t.Errorf("%d events, want 3: what has no checkpoint must not be seen", n)
	}
}

// Rows written while there is no publication cannot be decoded, ever: the relay
// names that, before and after somebody has put the publication back.
func TestPublicationDropped(t *testing.T) {
	ctx := within(t, 40*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 3)
	r.AwaitCaughtUp(ctx, t)
	r.Database.Exec(t, `DROP PUBLICATION outbox_pub`)
	r.Insert(t, 2)
	halted(t, relay, "OBX-3024")
	halts(t, r, "OBX-3022")
	r.Database.Exec(t, `CREATE PUBLICATION outbox_pub FOR TABLE outbox.events WITH (publish = 'insert')`)
	halts(t, r, "OBX-3024")
	if n := r.Count(ctx, t, r.Events); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}
