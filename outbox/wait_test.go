package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/harness"
)

func TestWait(t *testing.T) {
	db := harness.Postgres(t).NewDatabase(t)
	conn := db.Connect(t)
	slot := db.Slot("relay")
	if _, err := outbox.Wait(t.Context(), conn, slot, ""); !errors.Is(err, outbox.ErrNoSlot) {
		t.Fatalf("no slot: %v", err)
	}
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')", "CREATE TABLE t (x int)", "INSERT INTO t VALUES (1)")
	at, err := outbox.Position(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p, err := outbox.Wait(ctx, conn, slot, at)
	if !errors.Is(err, context.DeadlineExceeded) || p.Left <= 0 || p.Active || p.Confirmed == "" {
		t.Errorf("a relay that is behind: %v %+v", err, p)
	}
	// The wait cancels its query, which ends the connection.
	conn = db.Connect(t)
	for _, lsn := range []string{"0", "x/1", "0/", "/1", "0/1/2", "123456789/0", "0/1'", "FFFFFFFF/0"} {
		if _, err := outbox.Wait(t.Context(), conn, slot, lsn); !errors.Is(err, outbox.ErrBadPosition) {
			t.Errorf("%s: %v", lsn, err)
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := outbox.Wait(t.Context(), conn, slot, strings.ToLower(at))
		done <- err
	}()
	db.Exec(t, "SELECT pg_replication_slot_advance('"+slot+"', '"+at+"')", "INSERT INTO t VALUES (2)")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if p, err := outbox.Passed(t.Context(), db.Connect(t), slot, at); err != nil || p.Left != 0 {
		t.Errorf("%v %+v", err, p)
	}
}
