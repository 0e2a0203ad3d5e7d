package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/rig"
)

// Two letters that need the table: one of a row that was too large even for the
// topic of letters, and one of a row that was corrected since.
func TestReplayFromTheTable(t *testing.T) {
	ctx := within(t, time.Minute)
	r := rig.New(t, rig.Config{Partitions: 1, EventSettings: map[string]string{"max.message.bytes": "20000"}})
	r.Init(t)
	r.Configure(ctx, t, r.Letters, map[string]string{"max.message.bytes": "20000"})
	rig.AwaitStreaming(t, r.Serve(t, nil))
	r.Database.Exec(t,
		`INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, payload, headers)
		 VALUES ('00000000-0000-4000-8000-000000000001', 'order', '1', 'Placed', jsonb_build_object('b', repeat('x', 70000), 'a', 1.50), '{"tenant": "acme"}')`,
		`INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, payload, topic)
		 VALUES ('00000000-0000-4000-8000-000000000002', 'order', '2', 'Placed', '{"n": 2}', '__not_ours')`,
	)
	r.AwaitCaughtUp(ctx, t)
	if n := r.Count(ctx, t, r.Letters); n != 2 {
		t.Fatalf("%d letters", n)
	}
	r.Configure(ctx, t, r.Events, map[string]string{"max.message.bytes": "1000000"})
	if out := r.Command(t, "dlq", "replay"); out.ExitCode != 4 || !strings.Contains(out.Stdout, "1 of 2 letters replayed, 1 refused") {
		t.Fatalf("exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	r.Database.Exec(t, `UPDATE outbox.events SET topic = NULL, payload = '{"n": 3}', kafka_partition = 0, message_key = 'two' WHERE aggregateid = '2'`)
	if out := r.Command(t, "dlq", "replay", "--from-table", "--to", r.Events, "00000000-0000-4000-8000-000000000002"); out.ExitCode != 0 {
		t.Fatalf("exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	if out := r.Command(t, "dlq", "show", "-o", "json", "00000000-0000-4000-8000-000000000001"); out.ExitCode != 0 || !strings.Contains(out.Stdout, `"state": "replayed"`) {
		t.Errorf("exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	var got []*kgo.Record
	r.Each(ctx, t, r.Events, func(rec *kgo.Record) { got = append(got, rec) })
	if len(got) != 2 {
		t.Fatalf("%d records", len(got))
	}
	header := func(rec *kgo.Record, name string) string {
		for _, h := range rec.Headers {
			if h.Key == name {
				return string(h.Value)
			}
		}
		return ""
	}
	if want := `{"a": 1.50, "b": "` + strings.Repeat("x", 70000) + `"}`; string(got[0].Value) != want || string(got[0].Key) != "1" ||
		header(got[0], "tenant") != "acme" || header(got[0], outbox.HeaderLSN) == "" || header(got[0], outbox.HeaderReplayed) == "" {
		t.Errorf("the large one: %d bytes, key %s, %v", len(got[0].Value), got[0].Key, got[0].Headers)
	}
	if string(got[1].Value) != `{"n": 3}` || string(got[1].Key) != "two" {
		t.Errorf("the corrected one: %s, key %s", got[1].Value, got[1].Key)
	}
}
