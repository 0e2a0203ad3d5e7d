package slots_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/slots"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

// world is a table with a publication and a slot, and what Kafka would say.
type world struct {
	db    *harness.Database
	desk  *slots.Desk
	slot  string
	state checkpoint.State
	err   error // of Kafka
}

func newWorld(t *testing.T, withSlot bool) *world {
	t.Helper()
	db := harness.Postgres(t).NewDatabase(t)
	w := &world{db: db, slot: db.Slot("relay")}
	db.Exec(t, "CREATE TABLE events (id int)", "CREATE TABLE noise (id int)", "CREATE PUBLICATION outbox_pub FOR TABLE events WITH (publish = 'insert')")
	if withSlot {
		db.Exec(t, "SELECT pg_create_logical_replication_slot('"+w.slot+"', 'pgoutput')")
	}
	conn, err := pgconn.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := replication.Connect(t.Context(), replication.Config{Conn: conn, Slot: w.slot, Publication: "outbox_pub", Schema: "public", Table: "events"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	id, err := srv.Identify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.desk = &slots.Desk{
		Conn: srv.Conn(), Slot: w.slot, Publication: "outbox_pub", Identity: id,
		Ask: func(context.Context) (checkpoint.State, error) { return w.state, w.err },
	}
	return w
}

// covers sets the checkpoint.
func (w *world) covers(at pglogrepl.LSN) {
	id := w.desk.Identity
	w.state.Last = &checkpoint.Checkpoint{
		Seq: 7, Pos: checkpoint.Position{Timeline: id.Timeline, EndLSN: at}, Time: time.Now().Add(-time.Minute),
		Source: checkpoint.Source{SystemID: id.SystemID, Database: id.Database, Slot: w.slot},
	}
}

func (w *world) read(t *testing.T) replication.Slot {
	t.Helper()
	s, err := replication.Inspect(t.Context(), w.desk.Conn, w.slot)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDropNamesWhatWouldBeLost(t *testing.T) {
	w := newWorld(t, true)
	at := w.read(t).ConfirmedLSN
	w.db.Exec(t, "INSERT INTO noise VALUES (1)", "INSERT INTO events VALUES (1), (2)")

	plan := func() slots.Change {
		t.Helper()
		c, err := w.desk.PlanDrop(t.Context(), w.slot)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	// No checkpoint, two rows.
	c := plan()
	if c.Price != "none:"+at.String() || !strings.Contains(strings.Join(c.Facts, ";"), "still send 2 rows") {
		t.Fatalf("%+v", c)
	}
	for _, try := range []struct {
		name, price string
		want        *fault.Code
	}{
		{w.slot, "", fault.SlotWouldLose},
		{w.slot, "none:0/1", fault.SlotWouldLose},
		{"", c.Price, fault.SlotUnconfirmed},
		{"other", c.Price, fault.SlotUnconfirmed},
		{w.slot, strings.ToLower(c.Price), nil},
	} {
		err := c.Check(try.name, try.price)
		if try.want == nil && err != nil || try.want != nil && !fault.Has(err, try.want) {
			t.Errorf("%q %q: %v", try.name, try.price, err)
		}
		if try.want == fault.SlotWouldLose && !strings.Contains(fault.As(err).Remedy(), "--accept-gap none:"+at.String()) {
			t.Errorf("the way is not told: %v", fault.As(err).Text())
		}
	}
	// Kafka covers the rows: a live checkpoint is lost all the same.
	w.covers(w.read(t).CurrentLSN)
	if c := plan(); c.Price != w.read(t).CurrentLSN.String()+":"+at.String() && !strings.Contains(c.Price, ":"+at.String()) || !strings.Contains(strings.Join(c.Facts, ";"), "no rows left") {
		t.Errorf("%+v", c)
	}
	// Kafka cannot be asked.
	w.err = errors.New("no broker")
	c = plan()
	if c.Price != "unknown:"+at.String() || !strings.Contains(strings.Join(c.Facts, ";"), "no broker") {
		t.Errorf("%+v", c)
	}
	// The slot moves between the look and the change: nothing happens.
	w.db.Exec(t, "SELECT pg_replication_slot_advance('"+w.slot+"', pg_current_wal_lsn())")
	if err := w.desk.Do(t.Context(), &c); !fault.Has(err, fault.SlotChanged) {
		t.Errorf("a slot that had moved: %v", err)
	}
	// Nothing left and nothing known of a relay: no price.
	w.err, w.state = nil, checkpoint.State{}
	if c = plan(); c.Price != "" {
		t.Fatalf("%+v", c)
	}
	if err := w.desk.Do(t.Context(), &c); err != nil {
		t.Fatal(err)
	}
	if _, err := w.desk.PlanDrop(t.Context(), w.slot); !fault.Has(err, fault.SlotMissing) {
		t.Errorf("dropped, and then: %v", err)
	}
}

// A checkpoint of another slot, database or timeline says nothing about this one.
func TestForeignCheckpointIsNoKnowledge(t *testing.T) {
	w := newWorld(t, true)
	at := w.read(t).ConfirmedLSN
	for name, spoil := range map[string]func(*checkpoint.Checkpoint){
		"slot":     func(c *checkpoint.Checkpoint) { c.Source.Slot = "x" },
		"database": func(c *checkpoint.Checkpoint) { c.Source.Database = "x" },
		"system":   func(c *checkpoint.Checkpoint) { c.Source.SystemID = "1" },
		"timeline": func(c *checkpoint.Checkpoint) { c.Pos.Timeline++ },
	} {
		w.covers(w.read(t).CurrentLSN)
		spoil(w.state.Last)
		c, err := w.desk.PlanDrop(t.Context(), w.slot)
		if err != nil || c.Price != "unknown:"+at.String() {
			t.Errorf("%s: %v %+v", name, err, c)
		}
		if _, err := w.desk.PlanAdvance(t.Context(), w.slot, "checkpoint"); !fault.Has(err, fault.SlotTarget) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAdvance(t *testing.T) {
	w := newWorld(t, true)
	from := w.read(t).ConfirmedLSN
	w.db.Exec(t, "INSERT INTO events VALUES (1)")
	known := w.read(t).CurrentLSN
	w.db.Exec(t, "INSERT INTO events VALUES (2)")
	end := w.read(t).CurrentLSN
	w.covers(known)

	for _, c := range []struct {
		to, price string
		kafka     error
		want      *fault.Code
	}{
		{"checkpoint", "", nil, nil},
		{known.String(), "", nil, nil},
		{end.String(), known.String() + ":" + end.String(), nil, nil},
		// What the slot has confirmed is in Kafka, whoever can be asked.
		{end.String(), from.String() + ":" + end.String(), errors.New("no broker"), nil},
		{known.String(), from.String() + ":" + known.String(), errors.New("no broker"), nil},
		{from.String(), "", errors.New("no broker"), nil},
		{"checkpoint", "", errors.New("no broker"), fault.SlotTarget},
		{"0/10", "", nil, fault.SlotTarget},
		{"F/0", "", nil, fault.SlotTarget},
		{"soon", "", nil, fault.SlotTarget},
	} {
		w.err = c.kafka
		got, err := w.desk.PlanAdvance(t.Context(), w.slot, c.to)
		if c.want != nil {
			if !fault.Has(err, c.want) {
				t.Errorf("to %s: %v", c.to, err)
			}
			continue
		}
		if err != nil || got.Price != c.price {
			t.Errorf("to %s: price %q, want %q (%v)", c.to, got.Price, c.price, err)
		}
	}
	w.err = nil
	c, err := w.desk.PlanAdvance(t.Context(), w.slot, "checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.desk.Do(t.Context(), &c); err != nil || c.Done != known.String() || w.read(t).ConfirmedLSN != known {
		t.Errorf("%v: %+v", err, c)
	}
	if err := w.desk.Do(t.Context(), &c); !fault.Has(err, fault.SlotChanged) {
		t.Errorf("the same again: %v", err)
	}
}

func TestCreate(t *testing.T) {
	w := newWorld(t, false)
	sql := replication.Config{Slot: w.slot}.CreateSlotSQL(150000)
	if _, err := w.desk.PlanCreate(t.Context(), sql); !fault.Has(err, fault.SlotAlone) {
		t.Fatalf("a slot that serve would halt on: %v", err)
	}
	w.err = errors.New("no broker")
	c, err := w.desk.PlanCreate(t.Context(), sql)
	if err != nil || c.Price != "unknown:new" {
		t.Fatalf("%v %+v", err, c)
	}
	w.err = nil
	w.covers(0x1000)
	c, err = w.desk.PlanCreate(t.Context(), sql)
	if err != nil || c.Price != "0/1000:new" {
		t.Fatalf("%v %+v", err, c)
	}
	if err := w.desk.Do(t.Context(), &c); err != nil {
		t.Fatal(err)
	}
	if want := "outbox-relay serve --accept-gap 0/1000:" + w.read(t).ConfirmedLSN.String(); c.Next != want {
		t.Errorf("next: %s, want %s", c.Next, want)
	}
	if _, err := w.desk.PlanCreate(t.Context(), sql); !fault.Has(err, fault.SlotExists) {
		t.Errorf("a second one: %v", err)
	}
}

// A slot that somebody streams from, and one of another plugin, are let be.
func TestOthersSlotsAreLetBe(t *testing.T) {
	w := newWorld(t, true)
	cfg, err := pgconn.ParseConfig(w.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["replication"] = "database"
	stream, err := pgconn.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close(context.WithoutCancel(t.Context()))
	err = pglogrepl.StartReplication(t.Context(), stream, w.slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'outbox_pub'"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.desk.PlanDrop(t.Context(), w.slot); !fault.Has(err, fault.SlotHeld) {
		t.Errorf("drop: %v", err)
	}
	if _, err := w.desk.PlanAdvance(t.Context(), w.slot, "0/10"); !fault.Has(err, fault.SlotHeld) {
		t.Errorf("advance: %v", err)
	}
	c := slots.Change{Verb: "drop", Slot: w.slot, SQL: slots.DropSQL(w.slot, 0)}
	if err := w.desk.Do(t.Context(), &c); !fault.Has(err, fault.SlotChanged) {
		t.Errorf("a slot that was taken meanwhile: %v", err)
	}
	v, err := w.desk.Inspect(t.Context(), w.slot, time.Millisecond)
	if err != nil || v.Outlook.Verdict != slots.Moves || v.Holder == "" {
		t.Errorf("%v %+v", err, v)
	}
	other := w.db.Slot("other")
	w.db.Exec(t, "SELECT pg_create_logical_replication_slot('"+other+"', 'test_decoding')")
	if _, err := w.desk.PlanDrop(t.Context(), other); !fault.Has(err, fault.SlotShape) {
		t.Errorf("another plugin: %v", err)
	}
	if all, err := w.desk.List(t.Context()); err != nil || len(all) < 2 {
		t.Errorf("%v %+v", err, all)
	}
}

func TestInspect(t *testing.T) {
	w := newWorld(t, true)
	w.db.Exec(t, "INSERT INTO events SELECT generate_series(1, 1000)")
	w.covers(w.read(t).ConfirmedLSN)
	v, err := w.desk.Inspect(t.Context(), w.slot, 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if v.Outlook.Verdict != slots.Stands || v.Outlook.Next != "outbox-relay serve" || v.LagBytes <= 0 || v.RetainedBytes < v.LagBytes ||
		v.LagSeconds == nil || *v.LagSeconds < 59 || v.Checkpoint == "" || v.AverageRate == nil || v.LimitBytes != nil {
		t.Errorf("%+v", v)
	}
	// Every statement can be pasted.
	for _, sql := range append(v.SQL, slots.ListSQL) {
		if _, err := w.desk.Conn.Exec(t.Context(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	w.covers(w.read(t).CurrentLSN + 1<<30)
	if v, err = w.desk.Inspect(t.Context(), w.slot, 0); err != nil || *v.LagSeconds != 0 {
		t.Errorf("%v %+v", err, v.LagSeconds)
	}
	w.err = errors.New("no broker")
	if v, err = w.desk.Inspect(t.Context(), w.slot, 0); err != nil || v.LagSeconds != nil || v.CheckpointError != "no broker" {
		t.Errorf("%v %+v", err, v)
	}
	if _, err := w.desk.Inspect(t.Context(), "nobody", 0); !fault.Has(err, fault.SlotMissing) {
		t.Errorf("no slot: %v", err)
	}
}
