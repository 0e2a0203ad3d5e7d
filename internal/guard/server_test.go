package guard

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

type replicationLSN = pglogrepl.LSN

func guardOf(t *testing.T, url, slot string) *Guard {
	t.Helper()
	conn, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	g := New(Config{
		Source:   replication.Config{Conn: conn, Slot: slot, Schema: "outbox", Table: "events"},
		Interval: time.Second, WarnBytes: 1 << 30, Heartbeat: 10 * time.Second, Wanted: true, Log: zerolog.Nop(),
	})
	t.Cleanup(g.disconnect)
	return g
}

// The way of a slot that nobody reads, on a real server with a small limit: it
// is warned about before it is lost, and said to be lost afterwards.
func TestASlotOnItsWayToBeingLost(t *testing.T) {
	t.Parallel()
	pg := harness.NewPostgres(t, harness.PostgresConfig{Settings: map[string]string{
		"max_slot_wal_keep_size": "64MB", "min_wal_size": "32MB", "max_wal_size": "48MB",
	}})
	db := pg.NewDatabase(t)
	slot := db.Slot("relay")
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')", "CREATE TABLE busy (filler text)")
	g := guardOf(t, db.URL(), slot)

	g.look(t.Context())
	v := g.Latest()
	if v.Error != nil || !v.Reachable || !v.Slot.Exists || v.Slot.WALStatus != "reserved" || v.Timeline != 1 || v.ServerVersion < 140000 {
		t.Fatalf("first look: %+v", v)
	}
	if v.Slot.LimitBytes == nil || *v.Slot.LimitBytes != 64<<20 || v.Slot.SafeWALBytes == nil {
		t.Fatalf("limit %v, safe %v", v.Slot.LimitBytes, v.Slot.SafeWALBytes)
	}
	if v.ClockSkew < -1 || v.ClockSkew > 1 {
		t.Errorf("the clocks of one machine differ by %f s", v.ClockSkew)
	}
	warned := ""
	for i := 0; ; i++ {
		if i == 40 {
			t.Fatalf("not lost after %d rounds: %+v", i, v.Slot)
		}
		db.Exec(t, "INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 4000)", "SELECT pg_switch_wal()", "CHECKPOINT")
		g.look(t.Context())
		v = g.Latest()
		if v.Error != nil {
			t.Fatalf("%+v", v.Error)
		}
		if v.Slot.WALStatus == "lost" {
			break
		}
		warned = codes(v)
	}
	for _, name := range []string{"slot_retention", "slot_loss_predicted"} {
		if !strings.Contains(warned, name) {
			t.Errorf("before it was lost there was %q, and no %s", warned, name)
		}
	}
	if got := codes(v); got != "fail slot_lost" {
		t.Errorf("after it: %s", got)
	}
	if v.Slot.RetainedBytes != 0 || v.SecondsToLoss != nil {
		t.Errorf("a lost slot retains nothing and is not lost again: %+v", v)
	}
}

// Metrics of a slot are there while they are true, and absent otherwise.
func TestMetrics(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t).NewDatabase(t)
	g := guardOf(t, db.URL(), db.Slot("relay"))
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(g)
	names := func() string {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, f := range families {
			all = append(all, strings.TrimPrefix(f.GetName(), "outbox_"))
		}
		return strings.Join(all, " ")
	}
	const never = "paused postgres_up source_stalled"
	if got := names(); got != never {
		t.Errorf("before the first look: %s", got)
	}
	g.look(t.Context())
	const noSlot = "clock_skew_seconds paused postgres_up server_wal_bytes_per_second source_stalled stray_slot_retained_bytes stray_slots"
	if got := names(); got != noSlot {
		t.Errorf("without a slot: %s", got)
	}
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+db.Slot("relay")+"', 'pgoutput')")
	g.look(t.Context())
	const whole = "clock_skew_seconds paused postgres_up server_wal_bytes_per_second slot_active slot_lag_bytes slot_retained_bytes slot_wal_status " +
		"source_stalled stray_slot_retained_bytes stray_slots"
	if got := names(); got != whole {
		t.Errorf("with a slot and no limit: %s", got)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	g.unreachable(context.DeadlineExceeded)
	if got := names(); got != never {
		t.Errorf("a server that cannot be asked: %s", got)
	}
}

// What was read last stays to be seen while the server is away, and is marked
// as old. The guard comes back by itself.
func TestServerGoesAndComesBack(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t).NewDatabase(t)
	u, err := url.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := harness.NewProxy(t, u.Host)
	u.Host = proxy.Addr()
	g := guardOf(t, u.String(), db.Slot("relay"))
	g.look(t.Context())
	before := g.Latest()
	if !before.Reachable || before.TakenAt.IsZero() {
		t.Fatalf("the server is there: %+v", before.Error)
	}
	proxy.Cut()
	g.look(t.Context())
	g.look(t.Context())
	v := g.Latest()
	if v.Reachable || v.Error == nil || v.Error.Code != "OBX-3001" || v.Error.Fix == "" {
		t.Fatalf("the server is away: %+v", v)
	}
	if v.TakenAt != before.TakenAt || v.CurrentLSN != before.CurrentLSN {
		t.Errorf("what was read last is gone: %+v", v)
	}
	if err := proxy.Restore(); err != nil {
		t.Fatal(err)
	}
	g.look(t.Context())
	if v := g.Latest(); !v.Reachable || v.Error != nil || !v.TakenAt.After(before.TakenAt) {
		t.Errorf("the server is back: %+v", v)
	}
}

// Run looks by itself, and ends without a word when it is told to.
func TestRun(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t).NewDatabase(t)
	g := guardOf(t, db.URL(), db.Slot("relay"))
	g.cfg.Interval = 10 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	var first time.Time
	for v := g.Latest(); first.IsZero() || v.TakenAt.Equal(first); v = g.Latest() {
		if first.IsZero() {
			first = v.TakenAt
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
