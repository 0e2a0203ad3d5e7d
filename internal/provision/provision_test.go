package provision_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/provision"
	"github.com/holdwall/outbox-relay/outbox"
)

// From nothing to a relay that can be served: everything is there, and the
// first checkpoint stands exactly where the slot begins.
func TestFresh(t *testing.T) {
	w := newWorld(t)
	out := w.mustRun(t)
	if !out.Created || out.Position == 0 || out.Checkpoint.Seq != 1 {
		t.Errorf("outcome %+v", out)
	}
	if at := w.slotLSN(t); at != out.Position.String() {
		t.Errorf("slot at %s, outcome says %s", at, out.Position)
	}
	state := w.state(t)
	if state.Last == nil || state.Intent == nil {
		t.Fatalf("the topic holds %+v", state)
	}
	want := checkpoint.Position{Timeline: 1, EndLSN: out.Position}
	if diff := cmp.Diff(want, state.Last.Pos); diff != "" {
		t.Errorf("position (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(state.Intent.Source, state.Last.Source); diff != "" {
		t.Errorf("source (-intent +checkpoint):\n%s", diff)
	}
	if s := state.Last.Source; s.Database != w.db.Name || s.Slot != w.plan.Source.Slot || s.SystemID == "" || s.ClusterID == "" || s.TopicID == "" {
		t.Errorf("source %+v", s)
	}
	if got := w.ask(t, "SELECT string_agg(schemaname || '.' || tablename, ',') FROM pg_publication_tables WHERE pubname = 'outbox_pub'"); got != "outbox.events" {
		t.Errorf("the publication holds %s", got)
	}
	if got := w.cluster.TopicInfo("events"); got == nil {
		t.Error("the topic of events was not created")
	}
	adm := w.admin(t)
	configs, err := adm.DescribeTopicConfigs(t.Context(), "ckpt")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, c := range configs[0].Configs {
		got[c.Key] = c.MaybeValue()
	}
	for k, v := range provision.CheckpointTopic("ckpt").Configs {
		if got[k] != v {
			t.Errorf("%s of the checkpoint topic is %q, want %q", k, got[k], v)
		}
	}
}

// The second time nothing is made, and nobody is fenced.
func TestAgain(t *testing.T) {
	w := newWorld(t)
	first := w.mustRun(t)
	offset := w.state(t).LastOffset
	again := w.mustRun(t)
	if again.Created || again.Position != first.Position || again.Checkpoint.Seq != 1 {
		t.Errorf("outcome %+v", again)
	}
	if got := w.state(t); got.LastOffset != offset || got.SessionNo != first.Checkpoint.SessionNo {
		t.Errorf("the topic holds %+v", got)
	}
	ends, err := w.admin(t).ListEndOffsets(t.Context(), "ckpt")
	if err != nil {
		t.Fatal(err)
	}
	if end, _ := ends.Lookup("ckpt", 0); end.Offset != offset+2 { // its marker
		t.Errorf("the topic ends at %d, the checkpoint is at %d", end.Offset, offset)
	}
}

// An init that died is finished by the next one, wherever it died.
func TestDiedHalfway(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, w *world){
		"after the table": func(t *testing.T, w *world) {
			ddl, err := outbox.Schema("outbox.events")
			if err != nil {
				t.Fatal(err)
			}
			w.db.Exec(t, ddl...)
		},
		"after the intent": func(t *testing.T, w *world) { w.intend(t, nil) },
		"after the slot": func(t *testing.T, w *world) {
			w.intend(t, nil)
			ddl, err := w.plan.Statements(150000)
			if err != nil {
				t.Fatal(err)
			}
			w.db.Exec(t, ddl...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			prepare(t, w)
			out := w.mustRun(t)
			if !out.Created || w.slotLSN(t) != out.Position.String() {
				t.Errorf("slot at %s, outcome %+v", w.slotLSN(t), out)
			}
			if last := w.state(t).Last; last == nil || last.Pos.EndLSN != out.Position {
				t.Errorf("checkpoint %+v", last)
			}
			if again := w.mustRun(t); again.Created {
				t.Error("it is not finished")
			}
		})
	}
}

// Debezium's table of five columns is kept as it is.
func TestExistingTable(t *testing.T) {
	w := newWorld(t)
	w.db.Exec(t,
		`CREATE SCHEMA outbox`,
		`CREATE TABLE outbox.events (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb)`,
	)
	if out := w.mustRun(t); !out.Created {
		t.Errorf("outcome %+v", out)
	}
	if got := w.ask(t, `SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'outbox.events'::regclass AND attnum > 0`); got != "id,aggregatetype,aggregateid,type,payload" {
		t.Errorf("the table has %s", got)
	}
}

// Names that need quotes are the same table everywhere.
func TestQuotedTable(t *testing.T) {
	w := newWorld(t)
	w.plan.Table = outbox.Table{Schema: "Out Box", Name: "Events"}
	w.plan.Source.Schema, w.plan.Source.Table = "Out Box", "Events"
	w.plan.Source.Publication = "Outbox Pub"
	w.mustRun(t)
	if got := w.ask(t, `SELECT to_regclass('"Out Box"."Events"')::text`); got != `"Out Box"."Events"` {
		t.Errorf("the table is %s", got)
	}
	statements, err := w.plan.Statements(150000)
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(statements, "\n"); !strings.Contains(all, `CREATE TABLE IF NOT EXISTS "Out Box"."Events"`) {
		t.Errorf("the dry run says\n%s", all)
	}
	if again := w.mustRun(t); again.Created {
		t.Error("the second run made something")
	}
}

// The slot waits for whoever writes; being told to stop ends that, and leaves
// what the next run finishes.
func TestSlotWaitsForWriters(t *testing.T) {
	w := newWorld(t)
	writer := w.db.Connect(t)
	if _, err := writer.Exec(t.Context(), "BEGIN; CREATE TABLE held (id int)"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := w.plan.Run(ctx)
		done <- err
	}()
	w.await(t, "SELECT count(*)::text FROM pg_stat_activity WHERE query LIKE '%pg_create_logical_replication_slot%' AND wait_event = 'transactionid' AND datname = current_database()", "1")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := writer.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	w.await(t, "SELECT count(*)::text FROM pg_stat_activity WHERE query LIKE '%pg_create_logical_replication_slot%' AND state = 'active' AND pid <> pg_backend_pid() AND datname = current_database()", "0")
	if out := w.mustRun(t); !out.Created {
		t.Errorf("outcome %+v", out)
	}
}

// Two replicas that initialise at the same time make one relay.
func TestTwoAtOnce(t *testing.T) {
	w := newWorld(t)
	var created int
	results := make(chan provision.Outcome, 3)
	for range cap(results) {
		go func() {
			out, err := w.plan.Run(t.Context())
			if err != nil {
				t.Error(err)
			}
			results <- out
		}()
	}
	for range cap(results) {
		if out := <-results; out.Created {
			created++
		}
	}
	if created != 1 {
		t.Errorf("%d of them say that they made it", created)
	}
	if last := w.state(t).Last; last == nil || last.Seq != 1 {
		t.Errorf("checkpoint %+v", last)
	}
}
