package checkpoint_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
)

func TestLoad(t *testing.T) {
	t.Parallel()
	other := func(d *desk, seq uint64) *kgo.Record { return d.recordOf("invoices", at("foreign", 99, seq)) }
	for _, c := range []struct {
		name  string
		write func(d *desk)
		want  uint64 // seq; 0: no checkpoint
		no    uint64 // highest session number
	}{
		{"nothing but the barrier", func(*desk) {}, 0, 0},
		{"one checkpoint", func(d *desk) { d.commit(d.record(at("a", 1, 1))) }, 1, 1},
		{"the newest of several sessions", func(d *desk) {
			for i := range uint64(5) {
				d.commit(d.barrier("old"), d.record(at("a", 1+i, 1+i)))
			}
		}, 5, 5},
		{"farther back than the first window", func(d *desk) {
			d.commit(d.record(at("a", 3, 9)))
			for range 20 {
				for range 15 {
					d.abort(d.record(at("b", 4, 10)))
				}
				d.commit(d.barrier("old"))
			}
		}, 9, 3},
		{"beyond the first window, and nothing there", func(d *desk) {
			for range 300 {
				d.commit(d.barrier("old"))
			}
		}, 0, 0},
		{"aborted ones do not count", func(d *desk) {
			d.commit(d.record(at("a", 1, 1)))
			d.abort(d.record(at("b", 2, 2)))
			d.commit(d.record(at("c", 3, 2)))
			d.abort(d.record(at("d", 4, 3)), d.record(at("d", 4, 3)))
		}, 2, 3},
		{"another relay in the same topic", func(d *desk) {
			d.commit(other(d, 50))
			d.commit(d.record(at("a", 1, 1)))
			d.commit(other(d, 7), &kgo.Record{Topic: topic, Key: []byte("somebody else"), Value: []byte("?")}, &kgo.Record{Topic: topic, Value: []byte("no key")})
		}, 1, 1},
		{"another lane of a later version", func(d *desk) {
			d.commit(d.record(at("a", 1, 1)))
			d.commit(&kgo.Record{Topic: topic, Key: []byte("outbox-orders/lane/1"), Value: []byte(`{"v":2}`)})
		}, 1, 1},
		{"gaps in seq, as an override leaves them", func(d *desk) {
			d.commit(d.record(at("a", 1, 1)))
			d.commit(d.record(at("a", 1, 1001)))
		}, 1001, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			c.write(d)
			st, _ := d.load("mine", d.commit(d.barrier("mine")))
			switch {
			case c.want == 0 && st.Last != nil:
				t.Errorf("found checkpoint %d", st.Last.Seq)
			case c.want != 0 && st.Last == nil:
				t.Error("found none")
			case c.want != 0 && st.Last.Seq != c.want:
				t.Errorf("found checkpoint %d, want %d", st.Last.Seq, c.want)
			}
			if st.SessionNo != c.no {
				t.Errorf("session number %d, want %d", st.SessionNo, c.no)
			}
		})
	}
}

// TestLoadKeepsEverything: what comes back is what was written.
func TestLoadKeepsEverything(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	intent := checkpoint.Intent{Source: full().Source, Time: noon}
	rec, err := intent.Record(topic, "orders")
	if err != nil {
		t.Fatal(err)
	}
	d.commit(rec)
	offset := d.commit(d.record(cut()))
	st, _ := d.load("mine", d.commit(d.barrier("mine")))
	want := cut()
	if d := cmp.Diff(checkpoint.State{Last: &want, LastOffset: offset, Intent: &intent, SessionNo: want.SessionNo}, st); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// TestLoadAfterCompaction: what the cleaner leaves is enough.
func TestLoadAfterCompaction(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for i := range uint64(50) {
		d.commit(d.record(at("a", 1, 1+i)))
	}
	barrier := d.commit(d.barrier("mine"))
	d.cluster.Compact()
	if st, _ := d.load("mine", barrier); st.Last == nil || st.Last.Seq != 50 {
		t.Errorf("got %+v", st.Last)
	}
}

// TestLoadAfterTruncation: the log begins behind where the window would.
func TestLoadAfterTruncation(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for i := range uint64(20) {
		d.commit(d.record(at("a", 1, 1+i)))
	}
	barrier := d.commit(d.barrier("mine"))
	adm := kadm.NewClient(d.writer)
	var upTo kadm.Offsets
	upTo.AddOffset(topic, 0, 30, -1)
	if _, err := adm.DeleteRecords(t.Context(), upTo); err != nil {
		t.Fatal(err)
	}
	if st, _ := d.load("mine", barrier); st.Last == nil || st.Last.Seq != 20 {
		t.Errorf("got %+v", st.Last)
	}
}

func TestLoadHalts(t *testing.T) {
	t.Parallel()
	key := func(suffix string) []byte { return []byte("outbox-orders/" + suffix) }
	back := at("a", 1, 2)
	back.Pos.CommitLSN, back.Pos.EndLSN = 0x10, 0x20
	uncut := cut()
	uncut.Seq, uncut.Pos = 43, checkpoint.Position{Timeline: 3, EndLSN: cut().Pos.EndLSN, CommitLSN: 0x10}
	for _, c := range []struct {
		name  string
		write func(d *desk)
		want  *fault.Code
	}{
		{"seq goes back", func(d *desk) { d.commit(d.record(at("a", 1, 5))); d.commit(d.record(at("b", 2, 4))) }, fault.CheckpointForked},
		{"seq twice", func(d *desk) { d.commit(d.record(at("a", 1, 5))); d.commit(d.record(at("b", 2, 5))) }, fault.CheckpointForked},
		{"position goes back", func(d *desk) { d.commit(d.record(at("a", 1, 1))); d.commit(d.record(back)) }, fault.CheckpointForked},
		{"a cut is forgotten", func(d *desk) { d.commit(d.record(cut())); d.commit(d.record(uncut)) }, fault.CheckpointForked},
		{"checkpoint unreadable", func(d *desk) { d.commit(&kgo.Record{Topic: topic, Key: key("lane/0"), Value: []byte("{")}) }, fault.CheckpointCorrupt},
		{"checkpoint deleted", func(d *desk) { d.commit(&kgo.Record{Topic: topic, Key: key("lane/0")}) }, fault.CheckpointCorrupt},
		{"checkpoint of a newer version", func(d *desk) { d.commit(&kgo.Record{Topic: topic, Key: key("lane/0"), Value: []byte(`{"v":2}`)}) }, fault.CheckpointCorrupt},
		{"barrier unreadable", func(d *desk) { d.commit(&kgo.Record{Topic: topic, Key: key("session"), Value: []byte("{")}) }, fault.CheckpointCorrupt},
		{"intent unreadable", func(d *desk) { d.commit(&kgo.Record{Topic: topic, Key: key("init"), Value: []byte("{")}) }, fault.CheckpointCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			c.write(d)
			barrier := d.commit(d.barrier("mine"))
			_, tail, err := d.log.Load(within(t, 20*time.Second), "mine", barrier)
			if err == nil {
				tail.Close()
			}
			if !fault.Has(err, c.want) {
				t.Errorf("got %v, want %s", err, c.want.Name)
			}
		})
	}
}

// TestTimelineMayChange: after a failover the same relay goes on at positions
// that may be lower, on another timeline.
func TestTimelineMayChange(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.commit(d.record(at("a", 1, 1)))
	c := at("b", 2, 2)
	c.Pos.Timeline, c.Pos.CommitLSN, c.Pos.EndLSN = 2, 0x10, 0x20
	d.commit(d.record(c))
	if st, _ := d.load("mine", d.commit(d.barrier("mine"))); st.Last == nil || st.Last.Seq != 2 {
		t.Errorf("got %+v", st.Last)
	}
}

// TestBarrierNeverReadable: somebody's open transaction below it hides the
// barrier. An end offset would have said that there is nothing to wait for.
func TestBarrierNeverReadable(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.commit(d.record(at("a", 1, 1)))
	hanging := d.newWriter()
	d.begin(hanging, &kgo.Record{Topic: topic, Key: []byte("x")})
	barrier := d.commit(d.barrier("mine"))
	_, _, err := d.log.Load(within(t, 500*time.Millisecond), "mine", barrier)
	if !fault.Has(err, fault.BarrierTimeout) {
		t.Errorf("got %v", err)
	}
	d.end(hanging, kgo.TryAbort)
	if st, _ := d.load("mine", barrier); st.Last == nil || st.Last.Seq != 1 {
		t.Errorf("once it is readable: %+v", st.Last)
	}
}

// TestLoadIsToldToStop: a cancelled context ends the wait, and can be told from
// a deadline.
func TestLoadIsToldToStop(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	barrier := d.commit(d.barrier("mine"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := d.log.Load(ctx, "another session", barrier)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAwait(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		write func(d *desk)
		want  *fault.Code // nil: seen
	}{
		{"the own one", func(d *desk) { d.commit(d.record(at("mine", 1, 2))) }, nil},
		{"behind another relay's", func(d *desk) {
			d.commit(d.recordOf("invoices", at("foreign", 9, 9)))
			d.abort(d.record(at("zombie", 1, 2)))
			d.commit(d.record(at("mine", 1, 2)))
		}, nil},
		{"behind the own barrier and an earlier one", func(d *desk) {
			d.commit(d.barrier("mine"))
			d.commit(d.record(at("mine", 1, 1)))
			d.commit(d.record(at("mine", 1, 2)))
		}, nil},
		{"somebody's barrier", func(d *desk) { d.commit(d.barrier("theirs")); d.commit(d.record(at("mine", 1, 2))) }, fault.Fenced},
		{"a barrier of a newer version", func(d *desk) {
			d.commit(&kgo.Record{Topic: topic, Key: []byte("outbox-orders/session"), Value: []byte(`{"v":2}`)})
		}, fault.Fenced},
		{"somebody's checkpoint", func(d *desk) { d.commit(d.record(at("theirs", 2, 2))) }, fault.Fenced},
		{"a later one of our own", func(d *desk) { d.commit(d.record(at("mine", 1, 3))) }, fault.CheckpointForked},
		{"one that is unreadable", func(d *desk) {
			d.commit(&kgo.Record{Topic: topic, Key: []byte("outbox-orders/lane/0"), Value: []byte("{")})
		}, fault.CheckpointCorrupt},
		{"none", func(*desk) {}, fault.ReadBackTimeout},
		{"one that was aborted", func(d *desk) { d.abort(d.record(at("mine", 1, 2))) }, fault.ReadBackTimeout},
		{"one that is not committed yet", func(d *desk) { d.begin(d.writer, d.record(at("mine", 1, 2))) }, fault.ReadBackTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			_, tail := d.load("mine", d.commit(d.barrier("mine")))
			c.write(d)
			patience := 20 * time.Second
			if c.want == fault.ReadBackTimeout {
				patience = 400 * time.Millisecond
			}
			err := tail.Await(within(t, patience), "mine", 2)
			if c.want == nil && err != nil || c.want != nil && !fault.Has(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestAwaitGoesOn: one checkpoint after the other, each seen after its commit
// and not before; a takeover between Load and the first commit is seen.
func TestAwaitGoesOn(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	_, tail := d.load("mine", d.commit(d.barrier("mine")))
	for seq := range uint64(20) {
		d.begin(d.writer, d.record(at("mine", 1, seq+1)))
		seen := make(chan error, 1)
		go func() { seen <- tail.Await(within(t, 20*time.Second), "mine", seq+1) }()
		if seq == 10 {
			select {
			case err := <-seen:
				t.Fatalf("seen before the commit: %v", err)
			case <-time.After(300 * time.Millisecond):
			}
		}
		d.end(d.writer, kgo.TryCommit)
		if err := <-seen; err != nil {
			t.Fatal(err)
		}
	}

	mine := d.commit(d.barrier("second"))
	d.commit(d.barrier("third")) // before the second has read its own
	_, tail = d.load("second", mine)
	if err := tail.Await(within(t, 20*time.Second), "second", 21); !fault.Has(err, fault.Fenced) {
		t.Errorf("got %v", err)
	}
}

// A contradiction that a person has decided about is history: what counts is
// what the checkpoint says that begins anew. Whoever is to decide about it has
// to be able to read it.
func TestRebased(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	anew := at("c", 3, 9)
	anew.Rebased, anew.Pos = true, checkpoint.Position{Timeline: 1, EndLSN: 1}
	d.commit(d.record(at("a", 1, 5)))
	d.commit(d.record(at("b", 2, 5)))
	tolerant := d.log
	tolerant.Tolerant = true
	st, tail, err := tolerant.Load(within(t, 20*time.Second), "mine", d.commit(d.barrier("mine")))
	if err != nil || st.Last.SessionID != "b" {
		t.Fatalf("got %+v, %v", st.Last, err)
	}
	tail.Close()
	d.commit(d.record(anew))
	st, _ = d.load("yours", d.commit(d.barrier("yours")))
	if st.Last == nil || !st.Last.Rebased || st.Last.Seq != 9 {
		t.Errorf("got %+v", st.Last)
	}
}
