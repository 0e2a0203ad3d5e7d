package replication_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

func TestHosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, url string
		want      []string // host:port, with the ways to reach it
	}{
		{"one", "postgres://u@a:5432/db?sslmode=disable", []string{"a:5432 plain"}},
		{"one with fallback to plain", "postgres://u@a/db?sslmode=prefer", []string{"a:5432 tls plain"}},
		{"three", "postgres://u@a:1,b:2,c:3/db?sslmode=require", []string{"a:1 tls", "b:2 tls", "c:3 tls"}},
		{"several, each with its fallback", "postgres://u@a:1,b:2/db?sslmode=prefer", []string{"a:1 tls plain", "b:2 tls plain"}},
		{"one host, two ports", "postgres://u@a:1,a:2/db?sslmode=disable", []string{"a:1 plain", "a:2 plain"}},
		{"the same twice", "postgres://u@a:1,a:1/db?sslmode=disable", []string{"a:1 plain plain"}},
		{"read-write is asked by us", "postgres://u@a:1,b:2/db?sslmode=disable&target_session_attrs=read-write", []string{"a:1 plain", "b:2 plain"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := pgconn.ParseConfig(c.url)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range replication.Hosts(cfg) {
				words := []string{fmt.Sprintf("%s:%d", h.Host, h.Port), way(h.TLSConfig != nil)}
				for _, f := range h.Fallbacks {
					if f.Host != h.Host || f.Port != h.Port {
						t.Errorf("%s falls back to %s:%d", words[0], f.Host, f.Port)
					}
					words = append(words, way(f.TLSConfig != nil))
				}
				if h.ValidateConnect != nil {
					t.Errorf("%s is judged by the driver as well", words[0])
				}
				if h.User != "u" || h.Database != "db" {
					t.Errorf("%s lost user or database", words[0])
				}
				got = append(got, strings.Join(words, " "))
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func way(tls bool) string {
	if tls {
		return "tls"
	}
	return "plain"
}

func TestParseHistory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, content string
		want          []replication.Switch
		bad           bool
	}{
		{"empty", "", nil, false},
		{
			"as Postgres writes it", "1\t0/3000000\tno recovery target specified\n\n2\tA/BC\tbefore 2026-03-01 12:00:00+00\n",
			[]replication.Switch{{Timeline: 1, At: 0x3000000}, {Timeline: 2, At: 0xA_0000_00BC}},
			false,
		},
		{"without a last newline", "1\t0/10\tx", []replication.Switch{{Timeline: 1, At: 0x10}}, false},
		{"comments, which Postgres passes over", "# made by hand\n1\t0/10\tx\n   # more\n", []replication.Switch{{Timeline: 1, At: 0x10}}, false},
		{"timeline is no number", "x\t0/10\ty\n", nil, true},
		{"timeline too large", "4294967296\t0/10\ty\n", nil, true},
		{"no position", "1\n", nil, true},
		{"position is none", "1\there\ty\n", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := replication.ParseHistory([]byte(c.content))
			if (err != nil) != c.bad {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		slot, publication string
		bad               int
	}{
		{"outbox_relay", "outbox_pub", 0},
		{strings.Repeat("s", 63), `a "quoted" pub`, 0},
		{strings.Repeat("s", 64), "p", 1},
		{"Upper", "p", 1},
		{"s; DROP TABLE", "", 2},
		{"", "p\x00", 2},
	} {
		got := replication.Config{Slot: c.slot, Publication: c.publication}.Validate()
		if len(got) != c.bad {
			t.Errorf("slot %q, publication %q: %v, want %d problems", c.slot, c.publication, got, c.bad)
		}
	}
}

// TestSlotFit: what pg_replication_slots of each version says, and whether we
// can stream from it.
func TestSlotFit(t *testing.T) {
	t.Parallel()
	const (
		pg14 = `{"slot_name":"s","plugin":"pgoutput","slot_type":"logical","datoid":5,"database":"db","temporary":false,"active":true,"active_pid":42,` +
			`"xmin":null,"catalog_xmin":"730","restart_lsn":"0/10","confirmed_flush_lsn":"0/20","wal_status":"reserved","safe_wal_size":null,"two_phase":false}`
		pg17 = `{"slot_name":"s","plugin":"pgoutput","slot_type":"logical","database":"db","temporary":false,"active":false,"active_pid":null,` +
			`"restart_lsn":"0/10","confirmed_flush_lsn":"0/20","wal_status":"reserved","safe_wal_size":123,"two_phase":false,` +
			`"inactive_since":null,"conflicting":false,"invalidation_reason":null,"failover":true,"synced":false}`
	)
	with := func(from string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(from) }
	for _, c := range []struct {
		name, row string
		want      *fault.Code
	}{
		{"14", pg14, nil},
		{"17", pg17, nil},
		// Promotion leaves the mark of the copy; on a primary it says nothing.
		{"17 after a failover", with(pg17, `"synced":false`, `"synced":true`), nil},
		{"other plugin", with(pg14, "pgoutput", "wal2json"), fault.SlotShape},
		{"other database", with(pg14, `"database":"db"`, `"database":"other"`), fault.SlotShape},
		{"physical", with(pg14, `"plugin":"pgoutput"`, `"plugin":null`, `"database":"db"`, `"database":null`), fault.SlotShape},
		{"temporary", with(pg14, `"temporary":false`, `"temporary":true`), fault.SlotShape},
		{"two_phase", with(pg14, `"two_phase":false`, `"two_phase":true`), fault.SlotShape},
		// A lost slot goes on showing its positions.
		{"lost", with(pg14, "reserved", "lost"), fault.SlotLost},
		{"invalidated", with(pg17, `"invalidation_reason":null`, `"invalidation_reason":"idle_timeout"`), fault.SlotLost},
		{"restart_lsn null", with(pg14, `"0/10"`, "null"), fault.SlotLost},
		{"unreserved may still be read", with(pg14, "reserved", "unreserved"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := replication.ParseSlot([]byte(c.row), "0/30")
			if err != nil {
				t.Fatal(err)
			}
			err = replication.CheckSlot(s, replication.Config{Slot: "s"}, "db")
			if c.want == nil && err != nil || c.want != nil && !fault.Has(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	s, err := replication.ParseSlot([]byte(pg14), "0/30")
	if err != nil || s.RetainedBytes() != 0x20 || s.LagBytes() != 0x10 || s.SafeBytes != -1 || s.ActivePID != 42 {
		t.Errorf("got %+v, %v", s, err)
	}
	if s, err := replication.ParseSlot([]byte(strings.Replace(pg17, `"safe_wal_size":123`, `"safe_wal_size":-9`, 1)), "0/30"); err != nil || s.SafeBytes != 0 {
		t.Errorf("a slot that is over its limit has nothing left: %d, %v", s.SafeBytes, err)
	}
	if s, err = replication.ParseSlot([]byte(pg17), "0/30"); err != nil || s.SafeBytes != 123 || !s.Failover {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, bad := range []string{"", "{", `{"restart_lsn":"here"}`} {
		if _, err := replication.ParseSlot([]byte(bad), "0/30"); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
