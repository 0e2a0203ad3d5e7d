package audit_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// Each deviation is found by its kind, and by no other.
func TestFindings(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(w *world)
		want map[string]int64
	}{
		"nothing": {func(w *world) {
			w.publish("a", "b", "c")
		}, map[string]int64{"rows": 3, "found": 3, "events": 3}},
		"a row is missing": {func(w *world) {
			w.publish("a", "b")
			w.insert("c")
		}, map[string]int64{"rows": 3, "found": 2, "events": 2, "missing": 1}},
		"an event is there twice": {func(w *world) {
			w.publish("a", "b")
			w.produce(w.event("a"))
		}, map[string]int64{"rows": 2, "found": 2, "events": 3, "doubled": 1}},
		"a copy with the same position is not out of order as well": {func(w *world) {
			w.insert("a", "b")
			a, b := w.event("a"), w.event("b")
			again := *a
			w.produce(a, b, &again)
		}, map[string]int64{"rows": 2, "found": 2, "events": 3, "doubled": 1}},
		"event and letter": {func(w *world) {
			w.publish("a")
			w.produce(w.letter("a"))
		}, map[string]int64{"rows": 1, "found": 1, "events": 1, "letters": 1, "doubled": 1}},
		"order": {func(w *world) {
			w.insert("a", "b", "c")
			a, b := w.event("a"), w.event("b")
			w.produce(b, a, w.event("c"))
		}, map[string]int64{"rows": 3, "found": 3, "events": 3, "reordered": 1}},
		"order within a transaction": {func(w *world) {
			w.insert("a", "b")
			a, b := set(w.event("a"), "outbox.lsn", "0/500"), set(w.event("b"), "outbox.lsn", "0/500")
			w.produce(b, a)
		}, map[string]int64{"rows": 2, "found": 2, "events": 2, "reordered": 1}},
		"positions of two timelines": {func(w *world) {
			w.insert("a", "b")
			w.produce(set(w.event("a"), "outbox.lsn", "9/0"), set(w.event("b"), "outbox.tli", "2"))
		}, map[string]int64{"rows": 2, "found": 2, "events": 2}},
		"positions of two relays": {func(w *world) {
			w.insert("a", "b")
			w.produce(set(w.event("a"), "outbox.lsn", "9/0"), set(w.event("b"), "outbox.source", "shop/other"))
		}, map[string]int64{"rows": 2, "found": 2, "events": 2}},
		"payload": {func(w *world) {
			w.insert("a")
			rec := w.event("a")
			rec.Value = []byte(`{"a":"a","b":1}`)
			w.produce(rec)
		}, map[string]int64{"rows": 1, "found": 1, "events": 1, "different": 1}},
		"a user's header": {func(w *world) {
			w.insert("a")
			w.produce(set(w.event("a"), "tenant", "y"))
		}, map[string]int64{"rows": 1, "found": 1, "events": 1, "different": 1}},
		"the row was updated": {func(w *world) {
			w.publish("a")
			w.db.Exec(w.t, `UPDATE outbox.events SET payload = '{}'`)
		}, map[string]int64{"rows": 1, "found": 1, "events": 1, "different": 1}},
		"topic": {func(w *world) {
			w.insert("a", "b")
			w.db.Exec(w.t, `UPDATE outbox.events SET topic = 'other' WHERE id = 'b'`)
			b := w.event("b")
			b.Topic = "other"
			w.produce(w.event("a"), b)
			w.db.Exec(w.t, `UPDATE outbox.events SET topic = 'other' WHERE id = 'a'`)
		}, map[string]int64{"rows": 2, "found": 2, "events": 2, "different": 1}},
		"the row has gone": {func(w *world) {
			w.publish("a", "b")
			w.db.Exec(w.t, `DELETE FROM outbox.events WHERE id = 'a'`)
		}, map[string]int64{"rows": 1, "found": 1, "events": 2, "deleted": 1}},
		"the row is younger than the snapshot": {func(w *world) {
			w.publish("a")
			w.produce(set(w.event("b"), "outbox.lsn", "FFFFFFFF/0"))
		}, map[string]int64{"rows": 1, "found": 1, "events": 2, "newer": 1}},
		"others write to the topic": {func(w *world) {
			w.publish("a")
			w.produce(&kgo.Record{Topic: "events", Value: []byte("x")})
		}, map[string]int64{"rows": 1, "found": 1, "events": 1, "foreign": 1}},
		"a letter is as good as an event": {func(w *world) {
			w.insert("a")
			w.produce(w.letter("a"))
		}, map[string]int64{"rows": 1, "found": 1, "letters": 1}},
		"a letter without its payload": {func(w *world) {
			w.insert("a")
			w.produce(w.letterWith("a", func(l *dlq.Letter) { l.Value, l.Omitted.Payload = nil, true }))
		}, map[string]int64{"rows": 1, "found": 1, "letters": 1}},
		"a letter with another payload": {func(w *world) {
			w.insert("a")
			w.produce(w.letterWith("a", func(l *dlq.Letter) { l.Value = []byte("{}") }))
		}, map[string]int64{"rows": 1, "found": 1, "letters": 1, "different": 1}},
		"a letter and its replay": {func(w *world) {
			w.insert("a", "b")
			w.produce(w.letter("a"), w.event("b"), set(set(w.event("a"), "outbox.lsn", "0/1"), "outbox.replayed_at", "2026-01-01T00:00:00Z"))
		}, map[string]int64{"rows": 2, "found": 2, "events": 2, "replays": 1, "letters": 1}},
		"a letter sent elsewhere": {func(w *world) {
			w.insert("a", "b")
			w.db.Exec(w.t, `UPDATE outbox.events SET topic = 'no topic!' WHERE id = 'a'`)
			w.produce(w.letterWith("a", func(l *dlq.Letter) { l.Topic = "no topic!" }), w.event("b"),
				set(set(w.event("a"), "outbox.lsn", "0/1"), "outbox.replayed_at", "2026-01-01T00:00:00Z"))
		}, map[string]int64{"rows": 2, "found": 2, "events": 2, "replays": 1, "letters": 1}},
		"a letter of a consumer": {func(w *world) {
			w.publish("a")
			w.produce(w.letterWith("a", func(l *dlq.Letter) { l.Group = "billing" }))
		}, map[string]int64{"rows": 1, "found": 1, "events": 1, "consumer letters": 1}},
		"a row that can be no event": {func(w *world) {
			w.insert("a")
			w.db.Exec(w.t, `UPDATE outbox.events SET topic = 'no topic!'`)
		}, map[string]int64{"rows": 1, "missing": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c.do(w)
			w.covered()
			r := w.run()
			if diff := cmp.Diff(c.want, counts(r)); diff != "" {
				t.Errorf("(-want +got):\n%s\n%+v", diff, r)
			}
			if want := c.want["missing"]+c.want["doubled"]+c.want["reordered"]+c.want["different"] == 0; r.Sound() != want {
				t.Errorf("sound: %t", r.Sound())
			}
			codes := map[string]*fault.Code{
				"missing": fault.DataMissing, "doubled": fault.DataDoubled, "reordered": fault.DataReordered, "different": fault.DataDifferent,
			}
			for kind, code := range codes {
				found := slices.ContainsFunc(r.Verdicts(), func(v audit.Verdict) bool { return v.Code == code && v.Count > 0 })
				if found != (c.want[kind] > 0) {
					t.Errorf("%s found: %t", code.Name, found)
				}
			}
		})
	}
}

func (w *world) letter(id string) *kgo.Record { return w.letterWith(id, func(*dlq.Letter) {}) }

func (w *world) letterWith(id string, change func(*dlq.Letter)) *kgo.Record {
	l := dlq.New(w.event(id), fault.New(fault.RowTooLarge, "too large"), time.Now())
	change(&l)
	return l.Record("dlq", 0)
}

// A finding says where to look.
func TestFindingsAreDescribed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish("a", "b")
	w.produce(w.event("a"))
	w.insert("c")
	w.covered()
	r := w.run()
	p := r.Doubled.Examples[0].Places
	if len(p) != 2 || p[0].Topic != "events" || p[0].Partition != p[1].Partition || p[0].Offset != 0 || p[1].Offset != 2 {
		t.Errorf("%+v", r.Doubled)
	}
	if f := r.Missing.Examples[0]; f.ID != "c" || f.Detail != "not in events" || f.Created == nil {
		t.Errorf("%+v", f)
	}
	w.cfg.Examples = 0
	if r := w.run(); r.Missing.Count != 1 || len(r.Missing.Examples) != 0 {
		t.Errorf("%+v", r.Missing)
	}
}

// What commits behind the checkpoint is still to come, and not missing; what
// commits before it is.
func TestPending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ask(`SELECT pg_create_logical_replication_slot('` + w.cfg.Slot + `', 'pgoutput')::text`)
	w.publish("a")
	w.insert("lost")
	w.checkpoint(w.now())
	w.insert("b", "c")
	want := map[string]int64{"rows": 4, "found": 1, "events": 1, "missing": 1, "pending": 2}
	for range 2 { // looking at it moves nothing
		if diff := cmp.Diff(want, counts(w.run())); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if n := w.ask(`SELECT count(*)::text FROM pg_replication_slots WHERE slot_name LIKE 'outbox_audit%' AND database = current_database()`); n != "0" {
		t.Errorf("%s copies of the slot are left", n)
	}
}

// Without a slot to read nobody can tell, and the report does not pretend to.
func TestUndecided(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish("a")
	w.checkpoint(w.now())
	w.insert("b")
	r := w.run()
	if diff := cmp.Diff(map[string]int64{"rows": 2, "found": 1, "events": 1, "undecided": 1}, counts(r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r.Undecidable == "" {
		t.Error("it is not said why")
	}
}

// What retention has taken is not called missing; what is younger is.
func TestExpired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.insert("a", "b", "c", "d")
	var p int32
	for i, id := range []string{"a", "b", "c"} {
		rec := w.event(id)
		rec.Timestamp = time.Now().Add(-time.Hour - time.Minute*time.Duration(4-i))
		w.produce(rec)
		p = rec.Partition
	}
	w.trim("events", p, 2) // a and b have gone, c is left, d never was there
	w.covered()
	if diff := cmp.Diff(map[string]int64{"rows": 4, "found": 1, "events": 1, "expired": 2, "missing": 1}, counts(w.run())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Records of transactions that were aborted are not there.
func TestAborted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish("a")
	w.insert("b")
	cl, err := kgo.NewClient(append(w.cfg.Kafka, kgo.TransactionalID("x"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, how := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		rec := w.event("b")
		rec.Partition = 0
		if err := cl.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
	w.covered()
	if diff := cmp.Diff(map[string]int64{"rows": 2, "found": 2, "events": 2}, counts(w.run())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.insert("old")
	w.db.Exec(t, `UPDATE outbox.events SET created_at = now() - interval '2 days'`)
	// Before the rest, and behind it, where no offset tells its age.
	for _, id := range []string{"gone", "a", "gone too"} {
		rec := w.event(id)
		if id != "a" {
			rec.Timestamp = time.Now().Add(-48 * time.Hour)
		}
		w.produce(rec)
	}
	w.insert("a")
	w.publish("b")
	w.covered()
	w.cfg.Since = time.Now().Add(-24 * time.Hour)
	if diff := cmp.Diff(map[string]int64{"rows": 2, "found": 2, "events": 2}, counts(w.run())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w.cfg.Columns.CreatedAt = ""
	if _, err := audit.Run(t.Context(), w.cfg); !fault.Has(err, fault.CommandLine) {
		t.Errorf("without a time: %v", err)
	}
}

// A checkpoint of another database says nothing about this one.
func TestForeignCheckpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := audit.Run(t.Context(), w.cfg); !fault.Has(err, fault.NotInitialised) {
		t.Errorf("without a checkpoint: %v", err)
	}
	w.covered()
	w.cfg.SystemID = "1"
	if _, err := audit.Run(t.Context(), w.cfg); !fault.Has(err, fault.IdentityChanged) {
		t.Errorf("with another's: %v", err)
	}
}
