package provision_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/internal/cleanup"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// The partitioned table is made with its first partitions, takes rows of Append
// as the other does, and is not mistaken for the other.
func TestPartitioned(t *testing.T) {
	w := newWorld(t)
	w.plan.Table = outbox.Table{Schema: `Out "box"`, Name: "Events of shop"}
	w.plan.Source.Schema, w.plan.Source.Table = w.plan.Table.Schema, w.plan.Table.Name
	w.plan.Partitioned = true
	for _, r := range cleanup.Ranges(time.Now(), 24*time.Hour, 3) {
		w.plan.Partitions = append(w.plan.Partitions, r.FirstSQL(w.plan.Table))
	}
	if !w.mustRun(t).Created || w.mustRun(t).Created {
		t.Fatal("init is not what it was")
	}
	writer, err := outbox.NewWriter(w.plan.Table.SQL(), outbox.DefaultColumns())
	if err != nil {
		t.Fatal(err)
	}
	conn := w.db.Connect(t)
	rec := outbox.Record{AggregateType: "order", AggregateID: "1", Type: "placed", Payload: []byte("{}")}
	if err := writer.Append(t.Context(), conn, rec); err != nil {
		t.Fatal(err)
	}
	today := time.Now().UTC().Format("20060102")
	if got := w.ask(t, `SELECT tableoid::regclass::text FROM "Out ""box"""."Events of shop"`); !strings.Contains(got, "_p"+today) {
		t.Errorf("the row is in %s", got)
	}
	if got := w.ask(t, `SELECT count(*)::text FROM pg_publication_tables WHERE tablename = 'Events of shop'`); got != "1" {
		t.Errorf("%s tables are published, want the root", got)
	}

	plain := newWorld(t)
	plain.mustRun(t)
	plain.plan.Partitioned = true
	if _, err := plain.run(t); !fault.Has(err, fault.TableUnlike) {
		t.Errorf("a table without partitions: %v", err)
	}
}

func TestInstall(t *testing.T) {
	w := newWorld(t)
	for _, want := range []bool{true, false} {
		if made, err := w.plan.Install(t.Context()); err != nil || made != want {
			t.Errorf("made %t, want %t: %v", made, want, err)
		}
	}
	if got := w.ask(t, "SELECT count(*)::text FROM pg_publication"); got != "0" {
		t.Error("more than the table was made")
	}
}
