package e2e

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// What does not fit in Postgres is named before anything is read, by init with
// a status and by serve with a halt.
func TestPostgresMisfits(t *testing.T) {
	sql := func(statements ...string) func(testing.TB, *rig.Rig) {
		return func(t testing.TB, r *rig.Rig) { t.Helper(); r.Database.Exec(t, statements...) }
	}
	for _, tc := range []struct {
		name    string
		fresh   bool // not initialised before
		prepare func(testing.TB, *rig.Rig)
		code    string
		init    int // status of init with the same code; 0: init is the remedy
		word    string
	}{
		{"no table", true, nil, "OBX-3020", 0, `"outbox"."events"`},
		{"needed column was renamed", false, sql(`ALTER TABLE outbox.events RENAME COLUMN aggregateid TO agg`,
			`INSERT INTO outbox.events (aggregatetype, agg, type) VALUES ('order', '1', 'Created')`), "OBX-3021", 6, "aggregateid"},
		{"no publication", false, sql(`DROP PUBLICATION outbox_pub`), "OBX-3022", 0, "outbox_pub"},
		{"publication without the table", false, sql(`ALTER PUBLICATION outbox_pub DROP TABLE outbox.events`), "OBX-3023", 6, "ADD TABLE"},
		{"publication without inserts", false, sql(`ALTER PUBLICATION outbox_pub SET (publish = 'delete')`), "OBX-3023", 6, "insert"},
		{"publication with a row filter", false, sql(`ALTER PUBLICATION outbox_pub SET TABLE outbox.events WHERE (kafka_partition > 3)`), "OBX-3023", 6, "row filter"},
		{"role without REPLICATION", false, withRole, "OBX-3011", 6, "ALTER ROLE"},
		{"unknown database", false, func(_ testing.TB, r *rig.Rig) {
			r.Env["DATABASE_URL"] = strings.Replace(r.Env["DATABASE_URL"], r.Database.Name, "nowhere", 1)
		}, "OBX-3025", 6, "nowhere"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := rig.New(t, rig.Config{Partitions: 1})
			plant(t, r)
			if !tc.fresh {
				r.Init(t)
			}
			if tc.prepare != nil {
				tc.prepare(t, r)
			}
			line := halts(t, r, tc.code)
			if text := line["error"].(string) + line["hint"].(string); !strings.Contains(text, tc.word) {
				t.Errorf("%q is not named: %s", tc.word, text)
			}
			if tc.init == 0 {
				r.Init(t)
				return
			}
			refuses(t, r, tc.code, tc.init, "init")
		})
	}
}

// as lets the rig log in under a role that belongs to this test, and drops the
// role in the end if the test has created it.
func as(t testing.TB, r *rig.Rig, name string) (role string) {
	t.Helper()
	role = r.Database.Name + "_" + name
	r.Env["DATABASE_URL"] = strings.Replace(r.Env["DATABASE_URL"], "//postgres:", "//"+role+":", 1)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, r.Database.URL())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `DROP OWNED BY `+role+`; DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	return role
}

// withRole makes the relay a role that may read and write, and not replicate.
func withRole(t testing.TB, r *rig.Rig) {
	t.Helper()
	role := as(t, r, "plain")
	r.Database.Exec(t, `CREATE ROLE `+role+` LOGIN`, `GRANT ALL ON SCHEMA outbox TO `+role, `GRANT ALL ON ALL TABLES IN SCHEMA outbox TO `+role)
}

// init does not begin with a table from which no event could be read.
func TestInitRefusesTable(t *testing.T) {
	r := rig.New(t, rig.Config{Partitions: 1})
	plant(t, r)
	r.Database.Exec(t, `CREATE SCHEMA outbox`, `CREATE TABLE outbox.events (id uuid PRIMARY KEY, aggregatetype text, type text, payload jsonb)`)
	if out := refuses(t, r, "OBX-3021", 6, "init"); !strings.Contains(out.Stderr, "aggregateid") {
		t.Errorf("the column is not named: %s", out.Stderr)
	}
}

// Without wal_level=logical nothing can work, and init leaves nothing behind
// that would have to be explained later.
func TestWALLevel(t *testing.T) {
	rig.Real(t)
	pg := harness.NewPostgres(t, harness.PostgresConfig{Settings: map[string]string{"wal_level": "replica"}})
	r := rig.New(t, rig.Config{Postgres: pg, Partitions: 1})
	plant(t, r)
	refuses(t, r, "OBX-3010", 6, "init")
	var left int
	if err := r.Conn(t).QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d publications and slots are left behind (%v)", left, err)
	}
	line := halts(t, r, "OBX-3010")
	if !strings.Contains(line["hint"].(string), "ALTER SYSTEM") {
		t.Errorf("hint is %v", line["hint"])
	}
}

// A role that does not exist may be created yet: serve waits, init gives up.
func TestUnknownRole(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	r.Init(t)
	plant(t, r)
	role := as(t, r, "late")
	refuses(t, r, "OBX-3002", 3, "init")
	relay := r.Serve(t, nil)
	waits(ctx, t, relay, 0, "OBX-3002")
	r.Database.Exec(t, `CREATE ROLE `+role+` LOGIN SUPERUSER`)
	rig.AwaitStreaming(t, relay)
	harmless(t, answers(ctx, t, relay), relay.Stdout(), relay.Stderr())
	stop(ctx, t, relay)
}

// hold streams from a slot as something else than the relay would.
func hold(ctx context.Context, t testing.TB, r *rig.Rig) (letGo func()) {
	t.Helper()
	cfg, err := pgconn.ParseConfig(r.Database.URL())
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["replication"], cfg.RuntimeParams["application_name"] = "database", "somebody else"
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	letGo = func() { conn.Close(context.WithoutCancel(ctx)) }
	t.Cleanup(letGo)
	err = pglogrepl.StartReplication(ctx, conn, r.Slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names 'outbox_pub'"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return letGo
}

// holder is the PID of the walsender that streams from the rig's slot, 0 if
// there is none.
func holder(ctx context.Context, t testing.TB, r *rig.Rig) int {
	t.Helper()
	conn, err := pgx.Connect(ctx, r.Database.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var pid int
	err = conn.QueryRow(ctx, `SELECT COALESCE(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1`, r.Slot).Scan(&pid)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// A slot that somebody else streams from: serve stands by and says who that
// is, and goes on when it is free.
func TestSlotHeldByAnother(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	plant(t, r)
	r.Init(t)
	letGo := hold(ctx, t, r)
	relay := r.Serve(t, nil)
	line, err := relay.WaitLog(ctx, rig.Message("standby"))
	if err != nil {
		t.Fatal(err)
	}
	who, _ := line["holder"].(string)
	if !strings.Contains(who, strconv.Itoa(holder(ctx, t, r))) || !strings.Contains(who, "somebody else") {
		t.Errorf("holder is %q", who)
	}
	if status, body := rig.Ready(ctx, relay); status != http.StatusOK || body["role"] != "standby" {
		t.Errorf("/readyz answers %d %v", status, body)
	}
	r.Insert(t, 3)
	letGo()
	rig.AwaitStreaming(t, relay)
	r.AwaitCaughtUp(ctx, t)
	everyRowOnce(ctx, t, r, r.Events)
	stop(ctx, t, relay)
}

// init does not adopt a slot that somebody else uses under the name.
func TestInitRefusesHeldSlot(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	plant(t, r)
	r.Database.Exec(t, `SELECT pg_create_logical_replication_slot('`+r.Slot+`', 'pgoutput')`)
	letGo := hold(ctx, t, r)
	out := refuses(t, r, "OBX-3102", 3, "init")
	if pid := strconv.Itoa(holder(ctx, t, r)); !strings.Contains(out.Stderr, pid) {
		t.Errorf("the holder, PID %s, is not named: %s", pid, out.Stderr)
	}
	letGo()
	for holder(ctx, t, r) != 0 { // the walsender takes its time to end
		time.Sleep(10 * time.Millisecond)
	}
	refuses(t, r, "OBX-4002", 6, "init")
}

// With --exit-on-halt the process ends by itself, and with the same status.
func TestExitOnHalt(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	plant(t, r)
	relay := r.Serve(t, nil, "--exit-on-halt")
	exit, err := relay.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := relay.WaitLog(ctx, rig.Message("halted")); err != nil || line["code"] != "OBX-3020" {
		t.Errorf("halted with %v (%v)", line["code"], err)
	}
	judge(t, harness.Output{Stdout: relay.Stdout(), Stderr: relay.Stderr(), ExitCode: exit}, 6, "OBX-3020")
}
