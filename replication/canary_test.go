package replication_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

const canaries = 9 // a relation

var describeCanary = relation(canaries, "outbox", "canary", "id", "slot")

// A canary is silent once the stream has passed its commit, and not before.
func TestCanaryIsPassed(t *testing.T) {
	t.Parallel()
	now := time.Now()
	sung := func(id string) [][]byte {
		return [][]byte{begin(0x30, now, 7), row(canaries, id, "s"), commit(0x30, 0x40, now)}
	}
	for _, c := range []struct {
		name   string
		resume replication.Resume
		feed   [][]byte
		idle   []pglogrepl.LSN
		silent bool
	}{
		{"it has come", replication.Resume{}, sung("x"), []pglogrepl.LSN{0x50, 0x90}, false},
		{"it has come in a transaction that is known", replication.Resume{Floor: 0x60}, sung("x"), []pglogrepl.LSN{0x70}, false},
		{"the stream is not there yet", replication.Resume{}, nil, []pglogrepl.LSN{0x10, 0x40}, false},
		{"it did not come", replication.Resume{}, nil, []pglogrepl.LSN{0x50}, true},
		{"another one came", replication.Resume{}, sung("y"), []pglogrepl.LSN{0x50}, true},
		{"a keepalive inside a transaction says nothing", replication.Resume{}, [][]byte{begin(0x60, now, 8)}, []pglogrepl.LSN{0x90}, false},
		{"the next transaction passes it", replication.Resume{}, [][]byte{begin(0x60, now, 8), row(events, "a", "b")}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := assemble(t, c.resume)
			a.feed(describeCanary)
			a.Await("x", 0x50)
			a.feed(c.feed...)
			var err error
			for _, end := range c.idle {
				err = errors.Join(err, a.Keepalive(end, false))
			}
			if silent := fault.Has(err, fault.PublicationSilent); silent != c.silent || err != nil && !silent {
				t.Errorf("got %v, silent is to be %t", err, c.silent)
			}
			for _, tx := range a.out {
				for _, r := range tx.Rows {
					if string(r.Values[0]) == "x" {
						t.Error("the canary became an event")
					}
				}
			}
		})
	}
	a := assemble(t, replication.Resume{})
	a.Await("x", 0x50)
	a.feed(begin(0x60, now, 8), row(events, "a", "b"))
	if err := a.Message(1, commit(0x60, 0x70, now)); !fault.Has(err, fault.PublicationSilent) {
		t.Errorf("a commit behind it: %v", err)
	}
	if len(a.out) > 0 && a.out[len(a.out)-1].Last {
		t.Error("the position behind a silent canary was handed over, and could be confirmed")
	}
}

// A canary in the same transaction as rows would shift their ordinals; in its
// own it cannot.
func TestCanaryShiftsNoOrdinal(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := assemble(t, replication.Resume{})
	a.feed(describeCanary)
	c := a.Await("x", 0x50)
	a.feed(begin(0x30, now, 7), row(canaries, "x", "s"), commit(0x30, 0x40, now),
		begin(0x60, now, 8), row(events, "a", "b"), row(events, "c", "d"), commit(0x60, 0x70, now))
	if !c.Seen() {
		t.Error("not seen")
	}
	last := a.out[len(a.out)-1]
	if len(last.Rows) != 2 || last.Rows[0].Ord != 1 || last.Rows[1].Ord != 2 || last.Rows[1].Seq != 2 {
		t.Errorf("%+v", last.Rows)
	}
}

// withCanary gives a site the canary's table, and an odd publication if asked.
func withCanary(t *testing.T, add string) *site {
	t.Helper()
	s := newSite(t, harness.Postgres(t))
	s.Exec(t, outbox.Surface()...)
	s.cfg.Canary = 20 * time.Millisecond
	if add != "" {
		s.Exec(t, add)
	}
	return s
}

func (s *site) text(t *testing.T, sql string) string {
	t.Helper()
	var text string
	if err := s.Connect(t).QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func TestCanary(t *testing.T) {
	t.Parallel()
	s := withCanary(t, "")
	s.Exec(t, s.cfg.AddCanarySQL())
	src := run(t, s.cfg)
	src.Resume(replication.Resume{Floor: src.State().Slot.ConfirmedLSN})
	seen := map[string]bool{}
	eventually(t, "three canaries have come and gone", func() bool {
		seen[s.text(t, "SELECT coalesce(min(id), '') FROM outbox.canary")] = true
		delete(seen, "")
		return len(seen) > 3
	})
	s.events(t, "a", "b")
	tx := src.want("a", "b")
	if tx.Rows[0].Ord != 1 || tx.Rows[1].Ord != 2 {
		t.Errorf("ordinals %d and %d", tx.Rows[0].Ord, tx.Rows[1].Ord)
	}
	if n := s.text(t, "SELECT count(*)::text FROM outbox.canary"); n != "1" && n != "0" {
		t.Errorf("%s canaries are left", n)
	}
	src.end()
	// The next session knows the one that it finds.
	again := run(t, s.cfg)
	again.Resume(replication.Resume{Floor: again.State().Slot.ConfirmedLSN})
	again.want("a", "b")
	again.end()
}

// A publication that does not publish what it says halts by name, and again
// after a restart: what was skipped is skipped for good.
func TestCanarySilent(t *testing.T) {
	t.Parallel()
	s := withCanary(t, `ALTER PUBLICATION "outbox pub" ADD TABLE outbox.canary WHERE (id = 'never')`)
	before := s.slot(t)
	for range 2 {
		src := run(t, s.cfg)
		src.Resume(replication.Resume{Floor: src.State().Slot.ConfirmedLSN})
		if err := src.wait(); !fault.Has(err, fault.PublicationSilent) {
			t.Fatalf("ended with %v", err)
		}
	}
	if got := s.slot(t).ConfirmedLSN; got != before.ConfirmedLSN {
		t.Errorf("the slot moved to %s", got)
	}
	if n := s.text(t, "SELECT count(*)::text FROM outbox.canary"); n != "1" {
		t.Errorf("%s canaries, want the one that was not seen", n)
	}
	// A person has decided.
	s.Exec(t, "DELETE FROM outbox.canary", `ALTER PUBLICATION "outbox pub" SET TABLE outbox.events, outbox.canary`)
	src := run(t, s.cfg)
	src.Resume(replication.Resume{Floor: src.State().Slot.ConfirmedLSN})
	s.events(t, "a")
	src.want("a")
	eventually(t, "a canary was seen", func() bool {
		return s.text(t, "SELECT count(*)::text FROM outbox.canary WHERE lsn IS NOT NULL") == "1"
	})
	src.end()
}

// What is not set up is told once, and the stream goes on.
func TestCanaryOff(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]string{
		"not in the publication": "SELECT 1",
		"no table":               "DROP TABLE outbox.canary",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := withCanary(t, prepare)
			var log bytes.Buffer
			src, err := replication.Open(t.Context(), s.cfg, zerolog.New(&log), nil)
			if err != nil {
				t.Fatal(err)
			}
			r := runSource(t, src)
			src.Resume(replication.Resume{Floor: src.State().Slot.ConfirmedLSN})
			s.events(t, "a")
			r.want("a")
			s.events(t, "b")
			r.want("b")
			r.end()
			if n := strings.Count(log.String(), `"message":"no canary"`); n != 1 || !strings.Contains(log.String(), fault.CanaryOff.ID) {
				t.Errorf("told %d times:\n%s", n, log.String())
			}
		})
	}
}
