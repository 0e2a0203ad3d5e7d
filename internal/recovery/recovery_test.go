package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/recovery"
	"github.com/holdwall/outbox-relay/internal/relay"
)

// A slot that is gone, with rows committed since, letters among them: each of
// them is published once, in order, and a relay goes on behind them.
func TestSlotMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.init()
	w.insert(1, 10)
	w.serve()
	w.dropSlot()
	w.insert(11, 30)
	w.exec(`INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, payload, topic) VALUES ('` + id(31) + `', 'order', 'k1', 'Created', '{}', '__no')`)
	r := w.recover()
	if rows, letters := r.Published(); rows != 21 || letters != 1 || r.Found.Published != 10 || r.Code != "OBX-3101" {
		t.Errorf("%d rows, %d letters, %+v", rows, letters, r.Found)
	}
	if again := w.recover(); !again.Sound() {
		t.Errorf("again: %v", again.Findings)
	}
	w.insert(32, 40)
	w.serve()
	w.once(40)
	w.inOrder()
	if a := w.audits(); len(a) != 2 {
		t.Errorf("audit records: %v", a)
	}
}

// Somebody made the slot anew by hand: what committed before it is taken from
// the table, what committed behind it comes from the slot, and nothing twice.
func TestGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.init()
	w.insert(1, 5)
	w.serve()
	w.dropSlot()
	w.insert(6, 12)
	w.exec("SELECT pg_create_logical_replication_slot('" + w.cfg.Source.Slot + "', 'pgoutput')")
	w.insert(13, 20)
	r := w.recover()
	if rows, _ := r.Published(); rows != 7 || r.Found.Pending != 8 || r.Code != "OBX-4008" || r.Slot != recovery.KeepSlot {
		t.Errorf("%d rows, %+v", rows, r.Found)
	}
	w.serve()
	w.once(20)
	w.inOrder()
}

// The checkpoint topic is gone: how far publishing had come stands in the
// headers of what was published.
func TestCheckpointDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.init()
	w.insert(1, 10)
	w.exec(`INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, payload)
	    SELECT ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid, 'order', 'k' || i % 5, 'Created', '{}' FROM generate_series(11, 20) i`)
	w.serve()
	seq := w.state().Last.Seq
	w.deleteTopic("ckpt")
	w.insert(21, 25)

	if _, err := w.tryRecover(w.within(30 * time.Second)); !fault.Has(err, fault.RecoveryUndecided) {
		t.Fatalf("got %v", err)
	}
	w.accept(t)
	r := w.recover()
	if rows, _ := r.Published(); rows != 0 || r.Code != "OBX-4002" || r.Found.Published != 20 || r.Found.Pending != 5 {
		t.Errorf("%d rows, %s, %+v", rows, r.Code, r.Found)
	}
	last := w.state().Last
	if last.Seq <= r.Found.Number || r.Found.Number > seq || last.Pos.EndLSN < r.Server.Slot.ConfirmedLSN {
		t.Errorf("seq %d at %s, published under %d of %d", last.Seq, last.Pos, r.Found.Number, seq)
	}
	w.serve()
	w.once(25)
	w.inOrder()
}

// The topic is gone while the newest transaction is cut: the rest of it comes
// from the slot.
func TestCheckpointDeletedInsideOfTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.limits = relay.Limits{Size: 10, Max: 10, MaxBytes: 1 << 20}
	w.init()
	w.insert(1, 3)
	w.serve()
	w.exec(`INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, payload)
	    SELECT ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid, 'order', 'k' || i % 5, 'Created', '{}' FROM generate_series(4, 3000) i`)
	if err := w.stream(func(c checkpoint.Checkpoint) bool { return c.Pos.Cut() }); err != nil {
		t.Fatal(err)
	}
	if !w.state().Last.Pos.Cut() {
		t.Skip("the relay was too fast to be stopped inside of the transaction")
	}
	w.deleteTopic("ckpt")
	w.accept(t)
	if r := w.recover(); !r.Resume.Cut() {
		t.Errorf("goes on at %s", r.Resume)
	}
	w.serve()
	w.once(3000)
	w.inOrder()
}

// A recovery that is stopped again and again, with writers at work, publishes
// each row once. Meanwhile a relay refuses to stream.
func TestStoppedMidway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.limits = relay.Limits{Size: 5, Max: 5, MaxBytes: 1 << 20}
	w.init()
	w.insert(1, 10)
	w.serve()
	w.dropSlot()
	w.insert(11, 60)
	n := 60
	for stops := 0; ; stops++ {
		ctx, stop := context.WithCancel(w.within(30 * time.Second))
		groups := 0
		w.cfg.Progress = func(p audit.Progress) {
			if p.Step == "publish" {
				if groups++; groups == 3 {
					stop()
				}
			}
		}
		r, err := w.tryRecover(ctx)
		stopped := ctx.Err() != nil
		stop()
		if err != nil {
			t.Fatal(err)
		}
		if !stopped {
			if rows, _ := r.Published(); rows != 54 || stops < 3 {
				t.Errorf("%d rows in all, stopped %d times", rows, stops)
			}
			break
		}
		w.insert(n+1, n+2)
		n += 2
		if err := w.stream(func(checkpoint.Checkpoint) bool { return true }); !fault.Has(err, fault.RecoveryUnderWay) {
			t.Fatalf("a relay streams inside of a recovery: %v", err)
		}
		if stops == 1 {
			w.dropSlot() // lost again
		}
	}
	w.serve()
	w.once(n)
	w.inOrder()
}

// Brokers that refuse a record, or forget a commit's answer, end a session and
// not the recovery.
func TestKafkaTrouble(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.limits = relay.Limits{Size: 5, Max: 5, MaxBytes: 1 << 20}
	w.init()
	w.dropSlot()
	w.insert(1, 40)
	w.exec(`UPDATE outbox.events SET payload = jsonb_build_object('n', repeat('x', 3000)) WHERE id IN ('` + id(7) + `', '` + id(23) + `')`)
	// The relay does not see the limit, so the broker has to refuse.
	ends := 0
	w.cluster.ControlKey(int16(kmsg.EndTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		if ends++; ends%4 != 3 || !req.(*kmsg.EndTxnRequest).Commit {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.EndTxnResponse)
		resp.ErrorCode = kerr.UnknownServerError.Code // it was not carried out, and nobody can know
		return resp, nil, true
	})
	refuse := 0
	w.cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		if refuse++; refuse%7 != 6 {
			return nil, nil, false
		}
		return nil, errors.New("cut"), true
	})
	r := w.recover()
	if rows, _ := r.Published(); rows != 40 {
		t.Errorf("%d rows", rows)
	}
	w.serve()
	w.once(40)
	w.inOrder()
}

// What was a dead letter and was replayed is published; a letter that is gone by
// age and whose replay is there, too.
func TestReplayedLetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.init()
	w.insert(1, 2)
	w.exec(`INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, payload, topic) VALUES ('` + id(3) + `', 'order', 'k1', 'Created', '{}', '__no')`)
	w.serve()
	w.replay("mended")
	w.dropSlot()
	w.insert(4, 6)
	if r := w.recover(); r.Found.Published != 3 || r.Found.Missing.Count != 3 {
		t.Errorf("%+v", r.Found)
	}
	w.serve()
	w.once(6)
}

// Rows that were never the relay's, rows of which nobody can know, and rows that
// came after are told apart.
func TestWhatCannotBeKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`CREATE SCHEMA outbox`, `CREATE TABLE outbox.events (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb,
	    created_at timestamptz NOT NULL DEFAULT clock_timestamp())`)
	w.insert(1, 4) // before init
	w.init()
	w.insert(5, 9)
	w.serve()
	w.trim("events")
	w.dropSlot()
	w.insert(10, 12)
	r := w.preview()
	w.exec(`INSERT INTO outbox.events VALUES ('` + id(13) + `', 'order', 'k1', 'Created', '{}', '2020-01-01')`) // an old time, and written now
	if again := w.preview(); again.Found.Before != 4 || again.Found.Doubtful.Count != r.Found.Doubtful.Count+1 {
		t.Errorf("with a row of an old time: %+v", again.Found)
	}
	w.exec(`DELETE FROM outbox.events WHERE id = '` + id(13) + `'`)
	// Published or not: nothing but the topic could tell, which has been emptied;
	// and too short a time has passed for the clock to tell.
	if r.Found.Before != 4 || r.Found.Missing.Count+r.Found.Doubtful.Count != 8 || r.Found.Doubtful.Count < 5 {
		t.Errorf("%+v", r.Found)
	}
	w.cfg.Accept = []string{"unknown=1"}
	if _, err := w.tryRecover(w.within(30 * time.Second)); !fault.Has(err, fault.RecoveryMismatch) {
		t.Errorf("got %v", err)
	}
	w.cfg.Accept = []string{fmt.Sprintf("unknown=%d", r.Found.Doubtful.Count)}
	w.recover()
	w.serve()
	if n := len(w.read("events")); n != 8 {
		t.Errorf("%d events, want all but those from before init", n)
	}
}

// Nothing is wrong with the relay, and rows are missing all the same, as after
// a gap that somebody has accepted.
func TestMissingRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.init()
	w.insert(1, 4)
	w.serve()
	w.dropSlot()
	w.insert(5, 8)
	w.recover()
	w.dropSlot()
	w.insert(9, 11)
	w.exec("SELECT pg_create_logical_replication_slot('" + w.cfg.Source.Slot + "', 'pgoutput')")
	w.acceptGap()
	w.insert(12, 14)
	w.serve()
	if r := w.recover(); !r.Sound() {
		t.Fatalf("%v", r.Findings)
	}
	w.cfg.Missing = true
	if r := w.recover(); r.Found.Missing.Count != 3 {
		t.Errorf("%+v", r.Found)
	}
	if r := w.recover(); r.Found.Missing.Count != 0 {
		t.Errorf("again: %+v", r.Found)
	}
	w.cfg.Missing = false
	w.insert(15, 16)
	w.serve()
	w.once(16)
}

// The data moved to another cluster: positions begin anew.
func TestIdentityChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.init()
	w.insert(1, 4)
	w.serve()
	w.forge(func(c *checkpoint.Checkpoint) {
		c.Source.SystemID, c.Pos.EndLSN, c.Pos.CommitLSN = "1", 0xFFFF_FFFF_0000_0010, 0xFFFF_FFFF_0000_0000
	})
	w.insert(5, 7)
	w.cfg.Accept = []string{"identity=1:2@0/0"}
	if _, err := w.tryRecover(w.within(30 * time.Second)); !fault.Has(err, fault.RecoveryMismatch) {
		t.Errorf("got %v", err)
	}
	w.accept(t)
	if r := w.recover(); r.Code != "OBX-4005" || r.Found.Missing.Count != 0 {
		t.Errorf("%s: %+v", r.Code, r.Found)
	}
	w.serve()
	w.once(7)
}

// The database was restored from an older copy: the slot is made anew, and what
// the table has is compared with what was published.
func TestLSNBackwards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.init()
	w.insert(1, 4)
	w.serve()
	w.forge(func(c *checkpoint.Checkpoint) { c.Pos.EndLSN, c.Pos.CommitLSN = 0xFF_0000_0010, 0xFF_0000_0000 })
	w.insert(5, 7)
	w.accept(t)
	if r := w.recover(); r.Code != "OBX-4009" || r.Found.Missing.Count != 3 || r.Slot != recovery.ReplaceSlot {
		t.Errorf("%s: %+v", r.Code, r.Found)
	}
	w.insert(8, 9)
	w.serve()
	w.once(9)
}

// One recovery at a time.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.init()
	w.dropSlot()
	first, err := recovery.Open(t.Context(), w.cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := recovery.Open(t.Context(), w.cfg, true); !fault.Has(err, fault.RecoveryRunning) {
		t.Errorf("got %v", err)
	}
}
