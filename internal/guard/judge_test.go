package guard

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/replication"
)

const mib = 1 << 20

// world is a server that was never there: its clock and its WAL go on by step.
type world struct {
	g    *Guard
	r    reading
	self Self
}

func newWorld(change ...func(*world)) *world {
	w := &world{}
	w.g = New(Config{
		Source:   replication.Config{Conn: &pgconn.Config{Database: "shop"}, Slot: "orders"},
		Interval: 5 * time.Second, WarnBytes: 1 << 30, Heartbeat: 10 * time.Second, Wanted: true,
		Log: zerolog.Nop(),
	})
	w.r = reading{
		at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), host: "db:5432/shop", version: 170000, timeline: 1, limit: -1, exists: true,
		slot: replication.Slot{
			Name: "orders", Plugin: "pgoutput", Database: "shop", Active: true, RestartLSN: 1 << 40, ConfirmedLSN: 1 << 40, CurrentLSN: 1 << 40,
			WALStatus: "reserved", SafeBytes: -1,
		},
	}
	for _, c := range change {
		c(w)
	}
	return w
}

// limited gives the server a max_slot_wal_keep_size.
func limited(n int64) func(*world) {
	return func(w *world) { w.r.limit = n }
}

func (w *world) look() View {
	if w.r.limit >= 0 && !w.r.slot.Lost() {
		w.r.slot.SafeBytes = max(0, w.r.limit-w.r.slot.RetainedBytes())
	}
	v := w.g.picture(w.r, w.self)
	w.g.tell(v)
	return v
}

// run looks every 5 seconds for a while, as the server writes and the slot is
// moved by the given function.
func (w *world) run(d time.Duration, perSecond int64, move func(s *replication.Slot)) View {
	var v View
	for end := w.r.at.Add(d); w.r.at.Before(end); {
		w.r.at = w.r.at.Add(5 * time.Second)
		w.r.slot.CurrentLSN += replicationLSN(5 * perSecond)
		if move != nil {
			move(&w.r.slot)
		}
		v = w.look()
	}
	return v
}

func codes(v View) string {
	var all []string
	for _, f := range v.Findings {
		all = append(all, string(f.Severity)+" "+f.Name)
	}
	return strings.Join(all, ", ")
}

// follow is a relay that keeps up: it confirms at once, and restart_lsn follows
// every 15 seconds.
func follow() func(*replication.Slot) {
	looks := 0
	return func(s *replication.Slot) {
		s.ConfirmedLSN = s.CurrentLSN
		if looks++; looks%3 == 0 {
			s.RestartLSN = s.CurrentLSN
		}
	}
}

func TestFindings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		w    *world
		run  func(w *world) View
		want string
	}{
		{"sound", newWorld(limited(256 * mib)), func(w *world) View { return w.run(10*time.Minute, 4*mib, follow()) }, ""},
		{"sound and without a limit", newWorld(), func(w *world) View { return w.run(10*time.Minute, 40*mib, follow()) }, ""},
		{"half of the limit", newWorld(limited(1000 * mib)), func(w *world) View {
			w.r.slot.CurrentLSN += 501 * mib
			return w.look()
		}, "warn slot_retention"},
		{"nearly all of the limit", newWorld(limited(1000 * mib)), func(w *world) View {
			w.r.slot.CurrentLSN += 901 * mib
			return w.look()
		}, "fail slot_retention"},
		{"much, and no limit", newWorld(), func(w *world) View {
			w.r.slot.CurrentLSN += 1025 * mib
			return w.look()
		}, "warn slot_retention"},
		{"nobody reads", newWorld(limited(100 << 30)), func(w *world) View {
			w.r.slot.Active = false
			return w.run(time.Minute, mib, nil)
		}, "warn slot_unread"},
		{"nobody reads, and it will be lost in hours", newWorld(limited(10 << 30)), func(w *world) View {
			w.r.slot.Active = false
			return w.run(time.Minute, mib, nil)
		}, "warn slot_loss_predicted, warn slot_unread"},
		{"nobody reads, and it will be lost in minutes", newWorld(limited(10 << 30)), func(w *world) View {
			w.r.slot.Active = false
			return w.run(time.Minute, 20*mib, nil)
		}, "fail slot_loss_predicted, warn slot_unread"},
		{"nobody reads, and nothing is written", newWorld(limited(10 << 30)), func(w *world) View {
			w.r.slot.Active = false
			return w.run(time.Hour, 0, nil)
		}, ""},
		{"a deployment", newWorld(limited(100 << 30)), func(w *world) View {
			w.r.slot.Active = false
			return w.run(20*time.Second, mib, nil)
		}, ""},
		{"extended", newWorld(), func(w *world) View {
			w.r.slot.WALStatus = "extended"
			return w.look()
		}, "warn slot_extended"},
		{"unreserved", newWorld(limited(64 * mib)), func(w *world) View {
			w.r.slot.WALStatus = "unreserved"
			w.r.slot.CurrentLSN += 70 * mib
			return w.look()
		}, "fail slot_unreserved, fail slot_retention"},
		{"lost", newWorld(limited(64 * mib)), func(w *world) View {
			w.r.slot.WALStatus, w.r.slot.RestartLSN, w.r.slot.Invalidation = "lost", 0, "wal_removed"
			return w.look()
		}, "fail slot_lost"},
		{"missing, looked at once", newWorld(), func(w *world) View {
			w.r.exists = false
			return w.look()
		}, ""},
		{"missing", newWorld(), func(w *world) View {
			w.r.exists = false
			return w.run(10*time.Second, 0, nil)
		}, "fail slot_missing"},
		{"missing, and not wanted", newWorld(func(w *world) { w.g.cfg.Wanted = false }), func(w *world) View {
			w.r.exists = false
			return w.run(10*time.Second, 0, nil)
		}, ""},
		{"stalled", newWorld(), func(w *world) View {
			w.self.Streaming = true
			w.look()
			return w.run(70*time.Second, mib, nil)
		}, "warn source_stalled"},
		{"a long transaction that is cut: nothing is confirmed, much is delivered", newWorld(), func(w *world) View {
			w.self.Streaming = true
			w.look()
			return w.run(70*time.Second, mib, func(*replication.Slot) { w.self.Commits++ })
		}, ""},
		{"streaming, and a server at rest", newWorld(), func(w *world) View {
			w.self.Streaming = true
			w.look()
			return w.run(time.Hour, 100, nil)
		}, ""},
		{"another replica streams", newWorld(), func(w *world) View {
			w.look()
			return w.run(70*time.Second, mib, nil)
		}, ""},
		{"pinned by an old transaction", newWorld(func(w *world) { w.g.cfg.WarnBytes = 0 }), func(w *world) View {
			return w.run(6*time.Minute, mib, func(s *replication.Slot) { s.ConfirmedLSN = s.CurrentLSN })
		}, "warn slot_pinned"},
		{"idle, on a server with a time-out for that", newWorld(func(w *world) { w.r.idleTimeout = time.Hour }), func(w *world) View {
			w.r.slot.Active, w.r.slot.Inactive = false, w.r.at.Add(-50*time.Minute)
			return w.look()
		}, "fail slot_loss_predicted, warn slot_idle_timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := c.run(c.w)
			if got := codes(v); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
			for _, f := range v.Findings {
				if f.Detail == "" || f.Why == "" || f.Fix == "" {
					t.Errorf("a finding is to be acted on: %+v", f)
				}
			}
		})
	}
}

func TestSecondsToLoss(t *testing.T) {
	t.Parallel()
	none := -1.0
	for _, c := range []struct {
		name  string
		limit int64
		run   func(w *world) View
		low   float64 // none: there is no such time
		high  float64
	}{
		{"nobody reads: what is left, at the rate of the WAL", 1000 * mib, func(w *world) View {
			w.r.slot.Active = false
			return w.run(100*time.Second, mib, nil)
		}, 895, 905},
		{"after a single look nothing is known", 1000 * mib, func(w *world) View { return w.look() }, none, none},
		{"a slot that keeps up is not lost, however fast the server writes", 1000 * mib, func(w *world) View { return w.run(10*time.Minute, 30*mib, follow()) }, none, none},
		{"a slot that is read and stands", 1000 * mib, func(w *world) View { return w.run(100*time.Second, mib, nil) }, 895, 905},
		{"a slot that is read at half the pace", 10000 * mib, func(w *world) View {
			return w.run(10*time.Minute, 10*mib, func(s *replication.Slot) { s.RestartLSN += 25 * mib; s.ConfirmedLSN = s.RestartLSN })
		}, 1300, 1500},
		{"the reader leaves: it counts at once", 1000 * mib, func(w *world) View {
			w.run(10*time.Minute, mib, follow())
			w.r.slot.Active = false
			return w.run(5*time.Second, mib, nil)
		}, 900, 1000},
		{"another history: nothing before is comparable", 1000 * mib, func(w *world) View {
			w.r.slot.Active = false
			w.run(time.Minute, mib, nil)
			w.r.timeline++
			return w.look()
		}, none, none},
		{"no limit, no loss", -1, func(w *world) View {
			w.r.slot.Active = false
			return w.run(time.Minute, mib, nil)
		}, none, none},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := c.run(newWorld(limited(c.limit)))
			got := none
			if v.SecondsToLoss != nil {
				got = *v.SecondsToLoss
			}
			if got < c.low || got > c.high {
				t.Errorf("%.0f s, want from %.0f to %.0f", got, c.low, c.high)
			}
		})
	}
}

func TestStrays(t *testing.T) {
	t.Parallel()
	other := func(name string, change ...func(*replication.Slot)) replication.Slot {
		s := replication.Slot{Name: name, Plugin: "pgoutput", Database: "shop", RestartLSN: 1<<40 - 7, CurrentLSN: 1 << 40}
		for _, c := range change {
			c(&s)
		}
		return s
	}
	w := newWorld()
	w.r.others = []replication.Slot{
		other("orders_old"),
		other("outbox_relay"),
		other("outbox_audit_77", func(s *replication.Slot) { s.Temporary, s.Active = true, true }),
		other("orders_b", func(s *replication.Slot) { s.Active = true }),
		other("orders_c", func(s *replication.Slot) { s.Database = "other" }),
		other("orders_d", func(s *replication.Slot) { s.Plugin = "wal2json" }),
		other("debezium"),
	}
	names := func(v View) string {
		var all []string
		for _, s := range v.StraySlots {
			all = append(all, s.Name)
		}
		return strings.Join(all, " ")
	}
	if got := names(w.look()); got != "" {
		t.Errorf("at first sight: %q, and a replica may be about to take it", got)
	}
	v := w.run(time.Minute, 0, nil)
	if got := names(v); got != "orders_old outbox_relay" || !strings.Contains(codes(v), "warn slot_stray") {
		t.Errorf("after a minute: %q", got)
	}
	if v.StraySlots[0].RetainedBytes != 7 || !strings.Contains(v.Findings[0].Fix, "pg_drop_replication_slot('orders_old')") {
		t.Errorf("%+v", v)
	}
	if got := names(w.run(15*time.Minute, 0, nil)); got != "orders_old outbox_relay outbox_audit_77" {
		t.Errorf("a verify that hangs: %q", got)
	}
}

// The log has one line when a finding comes and one when it goes.
func TestFindingsAreToldOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := newWorld(limited(100 << 30))
	w.g.cfg.Log = zerolog.New(&log)
	w.r.slot.Active = false
	w.run(5*time.Minute, mib, nil)
	w.r.slot.Active = true
	w.run(5*time.Minute, mib, follow())
	var told []string
	for _, line := range strings.Split(strings.TrimSpace(log.String()), "\n") {
		var l struct{ Level, Name, Message, Hint string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		told = append(told, l.Level+" "+l.Name)
	}
	if got := strings.Join(told, ", "); got != "warn slot_unread, info slot_unread" {
		t.Errorf("told: %s", got)
	}
}

func TestWorstComesFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(limited(64 * mib))
	w.r.slot.WALStatus = "unreserved"
	w.r.slot.CurrentLSN += 40 * mib
	v := w.look()
	if f := v.Worst(); f == nil || f.Severity != Fail || f.Code != "OBX-4203" {
		t.Errorf("worst is %+v of %s", f, codes(v))
	}
	if (View{}).Worst() != nil {
		t.Error("nothing is the worst of nothing")
	}
}

var update = flag.Bool("update", false, "write the golden files")

// The keys are what the page, /api/status and scripts rely on.
func TestViewAsJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(limited(1000 * mib))
	w.r.holder = "PID 42 outbox-relay orders from 10.0.0.7"
	w.r.others = []replication.Slot{{Name: "orders_old", Plugin: "pgoutput", Database: "shop", RestartLSN: 1 << 40, CurrentLSN: 1<<40 + 5}}
	w.run(2*time.Minute, 5*mib, nil)
	got, err := json.MarshalIndent(w.look(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/view.json"
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
		t.Errorf("-file +view:\n%s", diff)
	}
}
