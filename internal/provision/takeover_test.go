package provision_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/provision"
)

// used is a world in which another program has read the slot: the table is that
// program's, and so is the publication, which is of all tables.
func used(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.plan.Source.Publication = "dbz_publication"
	w.db.Exec(
		t,
		`CREATE SCHEMA outbox`,
		`CREATE TABLE outbox.events (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text, aggregateid text, type text, payload jsonb)`,
		`CREATE TABLE other (n int)`,
		`CREATE PUBLICATION dbz_publication FOR ALL TABLES`,
		`SELECT pg_create_logical_replication_slot('`+w.plan.Source.Slot+`', 'pgoutput')`,
	)
	w.rows(t, 3)
	w.db.Exec(t, `SELECT pg_replication_slot_advance('`+w.plan.Source.Slot+`', pg_current_wal_lsn())`)
	w.db.Exec(t, `INSERT INTO other SELECT generate_series(1, 7)`)
	w.rows(t, 2)
	return w
}

func (w *world) rows(t *testing.T, n int) {
	t.Helper()
	for range n {
		w.db.Exec(t, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload) VALUES ('order', 'k', 'Created', '{}')`)
	}
}

func (w *world) at(t *testing.T) provision.TakeOver {
	t.Helper()
	at, err := pglogrepl.ParseLSN(w.slotLSN(t))
	if err != nil {
		t.Fatal(err)
	}
	return provision.TakeOver{Slot: w.plan.Source.Slot, At: at}
}

// A slot that was read is taken over where it stands, by whoever repeats where
// that is, and once.
func TestTakeOver(t *testing.T) {
	w := used(t)
	want := w.at(t)
	s, err := w.plan.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.At != want.At || s.Ahead.Rows != 2 || s.Ahead.More || !s.AllTables || s.Tables < 2 || s.SlotHolder != "" || s.Done != nil {
		t.Errorf("survey %+v", s)
	}
	if w.cluster.TopicInfo("ckpt") != nil {
		t.Error("a survey has made a topic")
	}
	for _, wrong := range []provision.TakeOver{{}, {Slot: want.Slot}, {Slot: want.Slot, At: want.At + 8}, {Slot: "other", At: want.At}} {
		_, err := w.plan.TakeOver(t.Context(), wrong)
		if !fault.Has(err, fault.TakeOverMismatch) || !strings.HasSuffix(fault.As(err).Remedy(), "--at "+want.At.String()) {
			t.Errorf("%+v: got %v", wrong, err)
		}
	}
	if w.cluster.TopicInfo("ckpt") != nil || w.slotLSN(t) != want.At.String() {
		t.Fatal("something was changed all the same")
	}
	out, err := w.plan.TakeOver(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	last := w.state(t).Last
	if !out.Created || last == nil || last.Seq != 1 || last.Pos.EndLSN != want.At || last.Source.Slot != want.Slot || last.Source.Publication != "dbz_publication" {
		t.Errorf("outcome %+v, checkpoint %+v", out, last)
	}
	if got := w.slotLSN(t); got != want.At.String() {
		t.Errorf("the slot has moved to %s", got)
	}
	w.await(t, "SELECT active::text FROM pg_replication_slots WHERE slot_name = '"+want.Slot+"'", "false")
	if out, err := w.plan.TakeOver(t.Context(), want); err != nil || out.Created {
		t.Errorf("again: %+v, %v", out, err)
	}
	// init itself finds what it would have made.
	if out := w.mustRun(t); out.Created {
		t.Errorf("init: %+v", out)
	}
}

func TestTakeOverRefused(t *testing.T) {
	t.Run("no slot", func(t *testing.T) {
		w := used(t)
		want := w.at(t)
		w.db.Exec(t, `SELECT pg_drop_replication_slot('`+want.Slot+`')`)
		if _, err := w.plan.TakeOver(t.Context(), want); !fault.Has(err, fault.SlotMissing) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a publication that the slot was not read with", func(t *testing.T) {
		w := used(t)
		w.plan.Source.Publication = "outbox_pub"
		_, err := w.plan.Survey(t.Context())
		if !fault.Has(err, fault.PublicationMissing) || !strings.Contains(fault.As(err).Remedy(), "OUTBOX_PUBLICATION=dbz_publication") {
			t.Errorf("missing: got %v, fix %q", err, fault.As(err).Remedy())
		}
		// Made now, it is younger than the rows that wait.
		w.db.Exec(t, w.plan.Source.CreatePublicationSQL())
		_, err = w.plan.TakeOver(t.Context(), w.at(t))
		if !fault.Has(err, fault.PublicationHole) || !strings.Contains(fault.As(err).Remedy(), "OUTBOX_PUBLICATION=dbz_publication") {
			t.Errorf("younger: got %v", err)
		}
	})
	t.Run("still read", func(t *testing.T) {
		w := used(t)
		want := w.at(t)
		conf := w.plan.Source.Conn.Copy()
		conf.RuntimeParams["replication"], conf.RuntimeParams["application_name"] = "database", "Debezium Streaming"
		conn, err := pgconn.ConnectConfig(t.Context(), conf)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		err = pglogrepl.StartReplication(t.Context(), conn, want.Slot, 0, pglogrepl.StartReplicationOptions{
			Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names 'dbz_publication'"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if s, err := w.plan.Survey(t.Context()); err != nil || !strings.Contains(s.SlotHolder, "Debezium Streaming") {
			t.Errorf("survey %+v, %v", s, err)
		}
		if _, err := w.plan.TakeOver(t.Context(), want); !fault.Has(err, fault.TakeOverHeld) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no outbox", func(t *testing.T) {
		w := used(t)
		w.db.Exec(t, `ALTER TABLE outbox.events RENAME aggregateid TO aggregate`)
		if _, err := w.plan.Survey(t.Context()); !fault.Has(err, fault.ColumnMissing) {
			t.Errorf("got %v", err)
		}
	})
}
