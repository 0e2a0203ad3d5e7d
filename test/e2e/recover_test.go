package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/test/rig"
)

// recovered is what `recover -o json` prints.
type recovered struct {
	Result   string
	Code     string
	Findings []struct{ Code, Detail string }
	Needs    []struct{ Accept, Means string }
	SlotPlan string `json:"slot_plan"`
	Resume   string `json:"resume_at"`
	Rows     struct {
		Table     int
		Published int `json:"already_published"`
		Pending   int `json:"slot_will_send"`
		Before    int `json:"before_init"`
		Missing   int
		Unknown   int
	}
	Lost *struct {
		Count int
		Again int `json:"inserted_again"`
	} `json:"lost_events"`
	Published int
	Letters   int `json:"published_dlq"`
}

func recovers(t testing.TB, r *rig.Rig, exit int, args ...string) recovered {
	t.Helper()
	out := r.Command(t, append([]string{"recover", "-o", "json"}, args...)...)
	if out.ExitCode != exit {
		t.Fatalf("recover %v: exit %d, want %d\n%s%s", args, out.ExitCode, exit, out.Stdout, out.Stderr)
	}
	var v recovered
	if err := json.Unmarshal([]byte(out.Stdout), &v); err != nil {
		t.Fatalf("%v: %s", err, out.Stdout)
	}
	return v
}

// sound fails unless every row is in Kafka once, by the table.
func sound(t testing.TB, r *rig.Rig, rows int) {
	t.Helper()
	var d audited
	verifies(t, r, 0, &d, "--data")
	if d.Rows != rows || d.Found != rows {
		t.Errorf("%d rows, %d found, want %d", d.Rows, d.Found, rows)
	}
}

// The commonest disaster: the slot is gone, and rows were committed since. The
// plan changes nothing, the recovery publishes each of them once, and a relay
// goes on as if nothing had been.
func TestRecoverSlotDropped(t *testing.T) {
	ctx := within(t, 90*time.Second)
	r := history(ctx, t)
	dropSlot(t, r)
	r.Insert(t, 4)
	r.Database.Exec(t, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, topic) VALUES ('order', 'k1', 'Created', '{}', '__no')`)
	halts(t, r, "OBX-3101")

	plan := recovers(t, r, 4)
	if plan.Result != "plan" || plan.Code != "OBX-3101" || plan.SlotPlan != "create" || plan.Rows.Missing != 5 || plan.Rows.Published != 3 {
		t.Errorf("plan: %+v", plan)
	}
	refuses(t, r, "OBX-3101", 6, "slot", "inspect") // still not there
	out := r.Command(t, "recover")
	t.Log("\n" + out.Stdout)
	for _, want := range []string{"OBX-3101 slot_missing", "5 rows", "order", "not known", "recover --yes"} {
		if !strings.Contains(out.Stdout, want) {
			t.Errorf("the plan does not say %q", want)
		}
	}

	done := recovers(t, r, 0, "--yes")
	if done.Result != "done" || done.Published != 5 || done.Letters != 1 {
		t.Errorf("done: %+v", done)
	}
	if again := recovers(t, r, 0, "--yes"); again.Result != "nothing" {
		t.Errorf("again: %+v", again)
	}
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 2)
	r.AwaitCaughtUp(ctx, t)
	stop(ctx, t, relay)
	if n, letters := r.Count(ctx, t, r.Events), r.Count(ctx, t, r.Letters); n != 9 || letters != 1 {
		t.Errorf("%d events and %d letters, want 9 and 1", n, letters)
	}
	sound(t, r, 10)
	var audits, overrides []string
	r.Each(ctx, t, r.Checkpoint, func(rec *kgo.Record) {
		if strings.Contains(string(rec.Key), "/audit/") {
			audits = append(audits, string(rec.Value))
		}
		if kind, _ := checkpoint.KindOf(rec.Key); kind == checkpoint.Lane {
			ck, err := checkpoint.Decode(rec)
			if err != nil {
				t.Fatal(err)
			}
			if ck.Override != "" {
				overrides = append(overrides, ck.Override)
			}
		}
	})
	if len(audits) != 2 || !strings.Contains(audits[1], `"state":"done"`) || !strings.Contains(audits[1], `"rows":5`) {
		t.Errorf("audit records: %v", audits)
	}
	if len(overrides) != 2 || !strings.HasPrefix(overrides[1], "recover OBX-3101") || !strings.Contains(overrides[1], "5 rows") {
		t.Errorf("overrides: %q", overrides)
	}
}

// A deleted checkpoint topic: what was published says how far that had come.
// Nothing is decided without a person.
func TestRecoverCheckpointDeleted(t *testing.T) {
	ctx := within(t, 90*time.Second)
	r := history(ctx, t)
	admin(t, r, func(ctx context.Context, adm *kadm.Client) error {
		_, err := adm.DeleteTopic(ctx, r.Checkpoint)
		return err
	})
	r.Insert(t, 4)
	plan := recovers(t, r, 6)
	if plan.Code != "OBX-4002" || len(plan.Needs) != 1 || plan.Rows.Published != 3 || plan.Rows.Pending != 4 || plan.Rows.Missing != 0 {
		t.Fatalf("plan: %+v", plan)
	}
	refuses(t, r, "OBX-4301", 6, "recover", "--yes")
	refuses(t, r, "OBX-4302", 6, "recover", "--yes", "--accept", plan.Needs[0].Accept+"0")
	if done := recovers(t, r, 0, "--yes", "--accept", plan.Needs[0].Accept); done.Result != "done" || done.Published != 0 {
		t.Errorf("done: %+v", done)
	}
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.AwaitCaughtUp(ctx, t)
	stop(ctx, t, relay)
	if n := r.Count(ctx, t, r.Events); n != 7 {
		t.Errorf("%d events, want 7", n)
	}
	sound(t, r, 7)
}

// A table in partitions, with columns of other names.
func TestRecoverPartitioned(t *testing.T) {
	ctx := within(t, 90*time.Second)
	r := rig.New(t, rig.Config{Partitions: 2, Env: map[string]string{"OUTBOX_TABLE": "shop.outbox", "OUTBOX_COLUMNS": "payload=data,aggregateid=agg,created_at=at"}})
	r.Database.Exec(t, `CREATE SCHEMA shop`,
		`CREATE TABLE shop.outbox (id uuid NOT NULL DEFAULT gen_random_uuid(), note text, aggregatetype text NOT NULL, agg text NOT NULL, type text NOT NULL, data jsonb, at timestamptz NOT NULL) PARTITION BY HASH (id)`,
		`CREATE TABLE shop.outbox_1 PARTITION OF shop.outbox FOR VALUES WITH (MODULUS 2, REMAINDER 0)`,
		`CREATE TABLE shop.outbox_2 PARTITION OF shop.outbox FOR VALUES WITH (MODULUS 2, REMAINDER 1)`)
	insert := func(n int) {
		r.Database.Exec(t, fmt.Sprintf(`INSERT INTO shop.outbox (aggregatetype, agg, type, data, at)
		    SELECT 'order', 'k' || i %% 3, 'Created', '{}', clock_timestamp() + interval '1 millisecond' * i FROM generate_series(1, %d) i`, n))
	}
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	insert(5)
	r.AwaitCaughtUp(ctx, t)
	stop(ctx, t, relay)
	dropSlot(t, r)
	insert(6)
	if done := recovers(t, r, 0, "--yes"); done.Published != 6 {
		t.Errorf("done: %+v", done)
	}
	relay = r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	insert(2)
	r.AwaitCaughtUp(ctx, t)
	stop(ctx, t, relay)
	sound(t, r, 13)
}
