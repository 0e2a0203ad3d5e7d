package provision_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// Slot and checkpoint are made together. One without the other is a loss to be
// looked at, not to be papered over.
func TestOneWithoutTheOther(t *testing.T) {
	t.Run("slot without checkpoint", func(t *testing.T) {
		w := newWorld(t)
		w.db.Exec(t, w.plan.Source.CreateSlotSQL(150000))
		at := w.slotLSN(t)
		_, err := w.run(t)
		if !fault.Has(err, fault.CheckpointMissing) || !strings.Contains(err.Error(), w.plan.Source.Slot) {
			t.Errorf("got %v", err)
		}
		if state := w.state(t); state.Last != nil || state.Intent != nil || w.slotLSN(t) != at {
			t.Error("something was made all the same")
		}
	})
	t.Run("checkpoint without slot", func(t *testing.T) {
		w := newWorld(t)
		w.mustRun(t)
		w.db.Exec(t, "SELECT pg_drop_replication_slot('"+w.plan.Source.Slot+"')")
		_, err := w.run(t)
		if !fault.Has(err, fault.SlotMissing) || !strings.Contains(err.Error(), "checkpoint 1") {
			t.Errorf("got %v", err)
		}
		if got := w.ask(t, "SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()"); got != "0" {
			t.Error("the slot was created anew")
		}
	})
	t.Run("the topic was made anew", func(t *testing.T) {
		w := newWorld(t)
		w.mustRun(t)
		if err := w.cluster.DeleteTopic("ckpt"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.run(t); !fault.Has(err, fault.CheckpointMissing) {
			t.Errorf("got %v", err)
		}
	})
}

// An intent covers the slot that it names, and none of the same name that
// belongs to somebody else.
func TestIntentForAnotherSlot(t *testing.T) {
	for name, change := range map[string]func(*checkpoint.Source){
		"another database": func(s *checkpoint.Source) { s.Database = "other" },
		"another cluster":  func(s *checkpoint.Source) { s.SystemID = "1" },
		"another slot":     func(s *checkpoint.Source) { s.Slot = "other" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.intend(t, change)
			w.db.Exec(t, w.plan.Source.CreateSlotSQL(150000))
			if _, err := w.run(t); !fault.Has(err, fault.CheckpointMissing) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A table that is no outbox is refused before anything is made.
func TestExistingTableWithoutAColumn(t *testing.T) {
	w := newWorld(t)
	w.db.Exec(t, `CREATE SCHEMA outbox`, `CREATE TABLE outbox.events (id uuid PRIMARY KEY, data jsonb)`)
	if _, err := w.run(t); !fault.Has(err, fault.ColumnMissing) {
		t.Errorf("got %v", err)
	}
	if w.cluster.TopicInfo("ckpt") != nil || w.slots(t) != "0" {
		t.Error("something was made all the same")
	}
}

// A publication under which rows would be missing is refused, not mended.
func TestPublicationWithoutTheTable(t *testing.T) {
	w := newWorld(t)
	w.db.Exec(t, `CREATE TABLE other (id int)`, `CREATE PUBLICATION outbox_pub FOR TABLE other`)
	_, err := w.run(t)
	if !fault.Has(err, fault.PublicationShape) {
		t.Fatalf("got %v", err)
	}
	if fix := fault.As(err).Remedy(); fix != `ALTER PUBLICATION "outbox_pub" ADD TABLE "outbox"."events"` {
		t.Errorf("fix %q", fix)
	}
	if w.slots(t) != "0" {
		t.Error("a slot was made before the publication was right")
	}
	// With the fix applied init finishes what it began.
	w.db.Exec(t, fault.As(err).Remedy())
	if out := w.mustRun(t); !out.Created {
		t.Errorf("outcome %+v", out)
	}
}

func TestHeldSlot(t *testing.T) {
	w := newWorld(t)
	w.intend(t, nil)
	ddl, err := w.plan.Statements(150000)
	if err != nil {
		t.Fatal(err)
	}
	w.db.Exec(t, ddl...)
	conf := w.plan.Source.Conn.Copy()
	conf.RuntimeParams["replication"] = "database"
	conf.RuntimeParams["application_name"] = "somebody else"
	conn, err := pgconn.ConnectConfig(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	err = pglogrepl.StartReplication(t.Context(), conn, w.plan.Source.Slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names 'outbox_pub'"},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.run(t)
	if !fault.Has(err, fault.SlotHeld) || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("got %v", err)
	}
	if w.state(t).Last != nil {
		t.Error("a checkpoint was written for a slot that somebody reads")
	}
}

// A right that is missing is named together with the statement for somebody
// who has it.
func TestWithoutRights(t *testing.T) {
	for _, tc := range []struct {
		name, rights string
		prepare      []string // as superuser; %s is the role
		code         *fault.Code
		fix          string
	}{
		{name: "no replication", code: fault.NoReplicationRole, fix: "ALTER ROLE %s WITH REPLICATION"},
		{name: "no schema", rights: "REPLICATION", code: fault.NoRight, fix: `CREATE SCHEMA IF NOT EXISTS "outbox"`},
		{
			name: "schema closed", rights: "REPLICATION", prepare: []string{`CREATE SCHEMA outbox`, `CREATE TABLE outbox.events (id uuid)`},
			code: fault.NoRight, fix: `GRANT USAGE ON SCHEMA "outbox" TO %s`,
		},
		{
			name: "no publication", rights: "REPLICATION", prepare: []string{
				`CREATE SCHEMA outbox AUTHORIZATION %s`,
				`CREATE TABLE outbox.events (id uuid, aggregatetype text, aggregateid text, type text, payload jsonb)`,
				`ALTER TABLE outbox.events OWNER TO %s`,
			},
			code: fault.NoRight, fix: `CREATE PUBLICATION "outbox_pub" FOR TABLE "outbox"."events"`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.as(t, "role", tc.rights)
			role := `"` + w.plan.Source.Conn.User + `"`
			for _, sql := range tc.prepare {
				w.db.Exec(t, strings.ReplaceAll(sql, "%s", role))
			}
			_, err := w.run(t)
			if !fault.Has(err, tc.code) {
				t.Fatalf("got %v, want %s", err, tc.code.ID)
			}
			want := strings.ReplaceAll(tc.fix, "%s", role)
			if fix := fault.As(err).Remedy(); !strings.Contains(fix, want) {
				t.Errorf("fix %q does not hold %q", fix, want)
			}
			if w.slots(t) != "0" {
				t.Error("a slot was made")
			}
		})
	}
}
