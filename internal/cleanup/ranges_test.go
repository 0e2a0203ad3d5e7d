package cleanup

import (
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/outbox"
)

func TestRanges(t *testing.T) {
	t.Parallel()
	table := outbox.Table{Schema: "outbox", Name: "events"}
	now := time.Date(2026, 3, 1, 23, 30, 0, 0, time.FixedZone("", 3600))
	for _, c := range []struct {
		interval time.Duration
		names    string
	}{
		{24 * time.Hour, "outbox.events_p20260301 outbox.events_p20260302"},
		{time.Hour, "outbox.events_p20260301t2200 outbox.events_p20260301t2300"},
		{7 * 24 * time.Hour, "outbox.events_p20260226 outbox.events_p20260305"},
	} {
		var names []string
		var last time.Time
		for _, r := range Ranges(now, c.interval, 1) {
			names = append(names, r.name(table).String())
			if r.To.Sub(r.From) != c.interval || !last.IsZero() && !last.Equal(r.From) {
				t.Errorf("%s: %v", c.interval, r)
			}
			last = r.To
		}
		if got := strings.Join(names, " "); got != c.names {
			t.Errorf("%s: %s, want %s", c.interval, got, c.names)
		}
	}
	// Each moment of a week gives the same weeks.
	for d := range 7 {
		if r := Ranges(time.Date(2026, 2, 26+d, 12, 0, 0, 0, time.UTC), 7*24*time.Hour, 0)[0]; r.From.Day() != 26 {
			t.Errorf("day %d: %v", d, r)
		}
	}
	long := outbox.Table{Schema: "s", Name: strings.Repeat("ä", 31)}
	if n := Ranges(now, time.Hour, 0)[0].name(long).Name; len(n) > 63 || !strings.HasSuffix(n, "_p20260301t2200") || !strings.HasPrefix(n, "ä") {
		t.Errorf("%q", n)
	}
}

func TestParseBound(t *testing.T) {
	t.Parallel()
	day := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]*Range{
		"FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-03-02 00:00:00+00')": {day, day.AddDate(0, 0, 1)},
		"FOR VALUES FROM (MINVALUE) TO ('2026-03-01 00:00:00+00')":                 {time.Time{}, day},
		"FOR VALUES FROM ('2026-03-01 00:00:00.5+00') TO (MAXVALUE)":               {day.Add(time.Second / 2), time.Time{}},
		"DEFAULT":                                  nil,
		"FOR VALUES IN ('a')":                      nil,
		"FOR VALUES FROM (1) TO (2)":               nil,
		"FOR VALUES FROM ('a', 1) TO ('b', 2)":     nil,
		"FOR VALUES WITH (modulus 2, remainder 0)": nil,
	} {
		got, ok := parseBound(text)
		if ok != (want != nil) || ok && (!got.From.Equal(want.From) || !got.To.Equal(want.To)) {
			t.Errorf("%s: %v %t", text, got, ok)
		}
	}
	open, closed := Range{To: day}, Range{day, day.Add(time.Hour)}
	if open.overlaps(closed) || closed.overlaps(open) || !(Range{}).overlaps(closed) || !(Range{From: day}).overlaps(closed) {
		t.Error("ranges that touch, or overlap, are told apart wrongly")
	}
}
