package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/test/rig"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// A table with Debezium's five columns and nothing else works unchanged, in
// every type of payload, byte for byte.
func TestFiveColumnsAlone(t *testing.T) {
	for _, tc := range []struct{ payloadType, in, want string }{
		{"jsonb", `'{"b": 1,   "a": 2}'`, `{"a": 2, "b": 1}`}, // Postgres normalises jsonb itself
		{"json", `'{"b": 1,   "a": 2}'`, `{"b": 1,   "a": 2}`},
		{"text", `E'line\nline'`, "line\nline"},
		{"bytea", `'\x00ff10'`, "\x00\xff\x10"},
	} {
		t.Run(tc.payloadType, func(t *testing.T) {
			ctx := within(t, 25*time.Second)
			r := rig.New(t, rig.Config{Partitions: 1})
			r.Database.Exec(t, `CREATE SCHEMA outbox`, `CREATE TABLE outbox.events (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL,
			    aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload `+tc.payloadType+`)`)
			r.Init(t)
			relay := r.Serve(t, nil)
			rig.AwaitStreaming(t, relay)
			const id = "4b0ee7b4-05a7-4c9a-9f0e-6f6a1d0f2a11"
			r.Database.Exec(t, `INSERT INTO outbox.events VALUES ('`+id+`', 'order', 'o-1', 'OrderCreated', `+tc.in+`)`)
			r.AwaitCaughtUp(ctx, t)
			var got []*kgo.Record
			r.Each(ctx, t, r.Events, func(rec *kgo.Record) { got = append(got, rec) })
			if len(got) != 1 {
				t.Fatalf("%d records, want 1", len(got))
			}
			if diff := cmp.Diff(tc.want, string(got[0].Value)); diff != "" {
				t.Errorf("payload (-want +got):\n%s", diff)
			}
			if string(got[0].Key) != "o-1" {
				t.Errorf("key %q", got[0].Key)
			}
			headers := map[string]string{}
			for _, h := range got[0].Headers {
				headers[h.Key] = string(h.Value)
			}
			for k, want := range map[string]string{
				"id": id, "type": "OrderCreated", "aggregatetype": "order", "aggregateid": "o-1",
				"outbox.seq": "1", "outbox.ord": "1", "outbox.tli": "1", "outbox.source": r.Database.Name + "/" + r.Slot,
			} {
				if headers[k] != want {
					t.Errorf("header %s is %q, want %q", k, headers[k], want)
				}
			}
			for _, k := range []string{"outbox.lsn", "outbox.xid", "outbox.commit_ts", "outbox.ckpt"} {
				if headers[k] == "" {
					t.Errorf("header %s is missing", k)
				}
			}
		})
	}
}

// A row that can be no event becomes a letter with its reason, in its place;
// what is around it arrives in order.
func TestPoisonBecomesLetters(t *testing.T) {
	ctx := within(t, 25*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 3)
	r.Database.Exec(t,
		`ALTER TABLE outbox.events DROP CONSTRAINT IF EXISTS events_topic_check`,
		`INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, topic) VALUES ('order', 'bad-topic', 'Created', '{}', 'no spaces allowed')`,
		`INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, topic) VALUES ('order', 'denied', 'Created', '{}', '__consumer_offsets')`,
		`INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload) VALUES ('order', 'too-large', 'Created', jsonb_build_object('x', repeat('x', 2000000)))`,
		`INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, headers) VALUES ('order', 'header', 'Created', '{}', '{"outbox.lsn": "0/0"}')`,
		`INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, kafka_partition) VALUES ('order', 'partition', 'Created', '{}', 99)`,
	)
	r.Insert(t, 3)
	r.AwaitCaughtUp(ctx, t)
	reasons := map[string]string{}
	r.Each(ctx, t, r.Letters, func(rec *kgo.Record) {
		for _, h := range rec.Headers {
			if h.Key == "outbox.dlq.reason" {
				reasons[string(rec.Key)] = string(h.Value)
			}
		}
	})
	want := map[string]string{
		"bad-topic": "invalid_topic", "denied": "unauthorized_topic", "too-large": "too_large",
		"header": "reserved_header", "partition": "partition_range",
	}
	if diff := cmp.Diff(want, reasons); diff != "" {
		t.Errorf("letters (-want +got):\n%s", diff)
	}
	if n := r.Count(ctx, t, r.Events); n != 6 {
		t.Errorf("%d events, want 6", n)
	}
	if status, body := rig.Ready(ctx, relay); status != 200 {
		t.Errorf("/readyz answers %d %v", status, body)
	}
}

// Two replicas: one streams, the other stands by and takes over when the first
// is told to stop, which it does with status 0.
func TestHandover(t *testing.T) {
	ctx := within(t, 25*time.Second)
	r := rig.New(t, rig.Config{})
	r.Init(t)
	first := r.Serve(t, nil)
	rig.AwaitStreaming(t, first)
	second := r.Serve(t, nil)
	if _, err := second.WaitLog(ctx, rig.Message("standby")); err != nil {
		t.Fatal(err)
	}
	r.Insert(t, 100)
	if err := first.Term(); err != nil {
		t.Fatal(err)
	}
	if exit, err := first.Wait(ctx); err != nil || exit != 0 {
		t.Errorf("exit %d, %v", exit, err)
	}
	rig.AwaitStreaming(t, second)
	r.Insert(t, 100)
	r.AwaitCaughtUp(ctx, t)
	if n := r.Count(ctx, t, r.Events); n != 200 {
		t.Errorf("%d events, want 200", n)
	}
}

// Metrics have the names that the specification promises, literally.
func TestMetricsNames(t *testing.T) {
	ctx := within(t, 25*time.Second)
	r := rig.New(t, rig.Config{})
	r.Init(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 5)
	r.AwaitCaughtUp(ctx, t)
	body := get(ctx, t, relay.HealthURL()+"/metrics")
	for _, name := range []string{
		"kafka_connections ", "kafka_outbox_published ", "kafka_outbox_publish_errors ",
		"kafka_outbox_batch_failures ", "kafka_producer_init_failures ", "outbox_relay_state{",
	} {
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("metric %s is not exported", name)
		}
	}
	if !strings.Contains(body, "\nkafka_outbox_published 5\n") {
		t.Error("kafka_outbox_published is not 5")
	}
}
