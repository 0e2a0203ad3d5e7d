package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/test/rig"
)

// admin does something to the topics behind the relay's back.
func admin(t testing.TB, r *rig.Rig, do func(context.Context, *kadm.Client) error) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	cl, err := r.Kafka.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := do(ctx, kadm.NewClient(cl)); err != nil {
		t.Fatal(err)
	}
}

// A checkpoint topic that would lose the checkpoint, or its order, is refused
// before the first record and after.
func TestCheckpointTopicMisfits(t *testing.T) {
	policy := "delete"
	for _, tc := range []struct {
		name       string
		partitions int32
		settings   map[string]string
		spoil      func(context.Context, *kadm.Client, string) error
	}{
		{"two partitions", 2, map[string]string{"cleanup.policy": "compact"}, func(ctx context.Context, adm *kadm.Client, topic string) error {
			resp, err := adm.CreatePartitions(ctx, 1, topic)
			if err != nil {
				return err
			}
			return resp.Error()
		}},
		{"deletes by age", 1, map[string]string{"cleanup.policy": policy}, func(ctx context.Context, adm *kadm.Client, topic string) error {
			_, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "cleanup.policy", Value: &policy}}, topic)
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Run("init", func(t *testing.T) {
				r := rig.New(t, rig.Config{Partitions: 1})
				plant(t, r)
				r.Topics.Create(t, "checkpoint", tc.partitions, tc.settings)
				refuses(t, r, "OBX-5006", 6, "init")
			})
			t.Run("serve", func(t *testing.T) {
				r := rig.New(t, rig.Config{Partitions: 1})
				plant(t, r)
				r.Init(t)
				admin(t, r, func(ctx context.Context, adm *kadm.Client) error { return tc.spoil(ctx, adm, r.Checkpoint) })
				halts(t, r, "OBX-5006")
			})
		})
	}
}

// Kafka that does not want the credentials: serve waits, init gives up, and
// nothing of them is said.
func TestKafkaRefusesCredentials(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	r.Init(t)
	plant(t, r)
	r.Env["KAFKA_SASL_MECHANISM"], r.Env["KAFKA_SASL_USERNAME"], r.Env["KAFKA_SASL_PASSWORD"] = "plain", "relay", planted
	r.Env["LOG_LEVEL"] = "trace"
	relay := r.Serve(t, nil)
	waits(ctx, t, relay, 0, "OBX-5037")
	harmless(t, answers(ctx, t, relay), relay.Stdout(), relay.Stderr())
	stop(ctx, t, relay)
	refuses(t, r, "OBX-5037", 3, "init")
}

// A table with names of its own needs nothing but to be described.
func TestRenamedColumns(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1, Env: map[string]string{
		"OUTBOX_TABLE": "shop.messages", "OUTBOX_COLUMNS": "id=message_id,aggregatetype=kind,aggregateid=ref,type=what,payload=data",
	}})
	r.Database.Exec(t, `CREATE SCHEMA shop`, `CREATE TABLE shop.messages (data text, what text, ref text, kind text, message_id bigint PRIMARY KEY)`)
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Database.Exec(t, `INSERT INTO shop.messages VALUES ('hello', 'Greeted', 'o-7', 'order', 42)`)
	r.AwaitCaughtUp(ctx, t)
	var got []*kgo.Record
	r.Each(ctx, t, r.Events, func(rec *kgo.Record) { got = append(got, rec) })
	if len(got) != 1 || string(got[0].Key) != "o-7" || string(got[0].Value) != "hello" {
		t.Fatalf("records are %v", got)
	}
	want := map[string]string{"id": "42", "type": "Greeted", "aggregatetype": "order", "aggregateid": "o-7"}
	for _, h := range got[0].Headers {
		if v, ok := want[h.Key]; ok && v == string(h.Value) {
			delete(want, h.Key)
		}
	}
	if len(want) > 0 {
		t.Errorf("headers %v are missing or differ", want)
	}
}

// A template sends each aggregate to a topic of its own, which is made when the
// first row asks for it.
func TestTopicPerAggregate(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := rig.New(t, rig.Config{})
	r.Env["OUTBOX_TOPIC_TEMPLATE"], r.Env["KAFKA_CREATE_TOPICS"] = r.Topics.Name("of.{aggregatetype}"), "true"
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 10)
	r.Database.Exec(t, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
	    SELECT 'customer', 'c' || i, 'Created', '{}' FROM generate_series(1, 7) i`)
	r.AwaitCaughtUp(ctx, t)
	for topic, want := range map[string]int{r.Topics.Name("of.order"): 10, r.Topics.Name("of.customer"): 7, r.Events: 0} {
		if n := r.Count(ctx, t, topic); n != want {
			t.Errorf("%d events in %s, want %d", n, topic, want)
		}
	}
	everyRowOnce(ctx, t, r, r.Topics.Name("of.order"), r.Topics.Name("of.customer"))
}

// A topic that nobody may create holds everything up, by name, until somebody
// does: what comes behind the row must not pass it.
func TestUnknownTopicIsWaitedFor(t *testing.T) {
	ctx := within(t, 40*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 3)
	later := r.Topics.Name("later")
	r.Database.Exec(t, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, topic) VALUES ('order', 'k1', 'Created', '{}', '`+later+`')`)
	r.Insert(t, 3)
	waits(ctx, t, relay, 0, "OBX-5005")
	if line, err := relay.WaitLog(ctx, rig.Code("OBX-5005")); err != nil || line["msg"] != "session ended" {
		t.Errorf("line is %v (%v)", line, err)
	}
	if n := r.Count(ctx, t, r.Events); n > 3 {
		t.Errorf("%d events are there: some passed the row that waits", n)
	}
	r.Topics.Create(t, "later", 1, nil)
	r.AwaitCaughtUp(ctx, t)
	everyRowOnce(ctx, t, r, r.Events, later)
	if n := r.Count(ctx, t, later); n != 1 {
		t.Errorf("%d events in %s, want 1", n, later)
	}
	if status, body := rig.Ready(ctx, relay); status != 200 {
		t.Errorf("/readyz answers %d %v", status, body)
	}
}
