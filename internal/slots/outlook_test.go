package slots

import (
	"strings"
	"testing"
	"time"
)

func TestOutlook(t *testing.T) {
	t.Parallel()
	bytes := func(n int64) *int64 { return &n }
	idle := time.Now().Add(-time.Hour)
	for _, c := range []struct {
		name    string
		view    View
		ours    bool
		verdict string
		seconds float64 // -1: none
		text    string
		next    string
	}{
		{"lost", View{Slot: Slot{WALStatus: "lost"}}, true, Lost, 0, "WAL was removed", "outbox-relay recover"},
		{"invalidated", View{Slot: Slot{WALStatus: "reserved", Invalidation: "idle_timeout"}}, true, Lost, 0, "idle_timeout", "outbox-relay recover"},
		{"unreserved", View{Slot: Slot{WALStatus: "unreserved", Active: true}}, true, Unreserved, -1, "next checkpoints", "max_slot_wal_keep_size"},
		{"moves", View{Slot: Slot{WALStatus: "reserved", Active: true, LagBytes: 1 << 30}, Moved: true, Rate: 1e6}, true, Moves, -1, "follows", "none"},
		{"idle", View{Slot: Slot{WALStatus: "reserved", Active: true, LagBytes: 100}}, true, Moves, -1, "follows", "none"},
		{"waits", View{Slot: Slot{WALStatus: "reserved", Active: true, LagBytes: 1 << 30, SafeBytes: bytes(1000)}, Rate: 100}, true, Waits, 10, "lost in about 10 s", "status"},
		{"stands", View{Slot: Slot{WALStatus: "extended", SafeBytes: bytes(3600 << 20)}, Rate: 1 << 20}, true, Stands, 3600, "lost in about 1 h 0 min", "outbox-relay serve"},
		{"stands without a limit", View{Slot: Slot{WALStatus: "extended"}, Rate: 1 << 20}, true, Stands, -1, "by 84.4 GiB a day", "outbox-relay serve"},
		{"a stray one", View{Slot: Slot{Name: "old", WALStatus: "extended"}, Rate: 1 << 20}, false, Stands, -1, "disk", "slot drop old"},
		{"nothing is written", View{Slot: Slot{WALStatus: "reserved", SafeBytes: bytes(1000)}}, true, Stands, -1, "writes no WAL", "outbox-relay serve"},
		{"idle limit", View{Slot: Slot{WALStatus: "reserved"}, Rate: 1, IdleSince: &idle, IdleLimit: time.Hour}, true, Stands, 0, "lost in about 0 s", "outbox-relay serve"},
		{"the average is higher", View{Slot: Slot{WALStatus: "reserved", SafeBytes: bytes(1000)}, AverageRate: new(float64)}, true, Stands, -1, "writes no WAL", "outbox-relay serve"},
	} {
		o := c.view.outlook(c.ours)
		seconds := -1.0
		if o.Seconds != nil {
			seconds = *o.Seconds
		}
		if o.Verdict != c.verdict || seconds != c.seconds || !strings.Contains(o.Text, c.text) || !strings.Contains(o.Next, c.next) {
			t.Errorf("%s: %+v (%v)", c.name, o, seconds)
		}
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{0: "0 s", 90 * time.Second: "1 min", 3*time.Hour + 5*time.Minute: "3 h 5 min", 72 * time.Hour: "3 days"} {
		if got := Span(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
