package guard

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/harness"
)

// stage is a database with the SQL surface and a guard of relay "orders".
type stage struct {
	db   *harness.Database
	conn *pgx.Conn
	g    *Guard
	self Self
	now  time.Time
}

// newStage's guard connects as the given role, or as the owner.
func newStage(t *testing.T, url string, db *harness.Database, surface bool) *stage {
	t.Helper()
	s := &stage{db: db, conn: db.Connect(t), now: time.Now()}
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+db.Slot("relay")+"', 'pgoutput')")
	if surface {
		db.Exec(t, outbox.Surface()...)
	}
	s.g = guardOf(t, url, db.Slot("relay"))
	s.g.cfg.Relay, s.g.cfg.Instance, s.g.cfg.Version = "orders", "host-1", "v0"
	s.g.cfg.Self = func() Self { return s.self }
	return s
}

// tend looks with a clock that is a while further.
func (s *stage) tend(t *testing.T, later time.Duration) {
	t.Helper()
	s.now = s.now.Add(later)
	if s.g.srv == nil {
		if err := s.g.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.g.tend(t.Context(), s.g.srv.Conn(), s.now, s.self)
}

func (s *stage) ask(t *testing.T, sql string, args ...any) string {
	t.Helper()
	var text *string
	err := s.conn.QueryRow(t.Context(), sql, args...).Scan(&text)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "no row"
	case err != nil:
		t.Fatalf("%s: %v", sql, err)
	case text == nil:
		return "null"
	}
	return *text
}

func TestPauseBySQL(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t).NewDatabase(t)
	s := newStage(t, db.URL(), db, true)
	s.tend(t, 0)
	if p, _ := s.g.Paused(); p != nil {
		t.Fatalf("paused from the start: %+v", p)
	}
	_, changed := s.g.Paused()
	if got := s.ask(t, "SELECT outbox.pause('deploying Kafka')"); !strings.HasPrefix(got, "every relay of this database is paused since ") {
		t.Error(got)
	}
	s.tend(t, time.Second)
	<-changed
	p, _ := s.g.Paused()
	if p == nil || p.Reason != "deploying Kafka" || p.By != "postgres" || p.Relay != Every {
		t.Fatalf("paused: %+v", p)
	}
	if v := s.g.Latest(); !v.Paused || v.PausedBy != "postgres" || v.PausedReason != "deploying Kafka" || v.PausedSince == nil {
		t.Errorf("view: %+v", v)
	}
	s.g.look(t.Context())
	if v := s.g.Latest(); !strings.Contains(codes(v), "warn paused") {
		t.Errorf("a pause is to be seen where one looks: %s", codes(v))
	}
	// Who resumes one relay does not resume them all.
	if err := s.g.Resume(t.Context(), "me"); !fault.Has(err, fault.Paused) || !strings.Contains(fault.As(err).Remedy(), "--all") {
		t.Errorf("resume of one: %v", err)
	}
	if got := s.ask(t, "SELECT outbox.resume('orders')"); !strings.Contains(got, "still paused") {
		t.Error(got)
	}
	if got := s.ask(t, "SELECT outbox.resume()"); got != "not paused any more: every relay" {
		t.Error(got)
	}
	s.tend(t, time.Second)
	if p, _ := s.g.Paused(); p != nil {
		t.Errorf("still paused: %+v", p)
	}
	if got := s.ask(t, "SELECT outbox.resume()"); got != "nothing was paused" {
		t.Error(got)
	}
	if got := s.ask(t, "SELECT outbox.pause('x', 'payments')"); !strings.HasPrefix(got, "relay payments is paused since ") {
		t.Error(got)
	}
	s.tend(t, time.Second)
	if p, _ := s.g.Paused(); p != nil {
		t.Errorf("another relay is paused, and this one too: %+v", p)
	}
}

// Pause and Resume of a process are the same switch.
func TestPauseByProcess(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t).NewDatabase(t)
	s := newStage(t, db.URL(), db, true)
	if err := s.g.Pause(t.Context(), "anna", "Kafka is full"); err != nil {
		t.Fatal(err)
	}
	if p, _ := s.g.Paused(); p == nil || p.By != "anna" {
		t.Errorf("known at once: %+v", p)
	}
	if got := s.ask(t, "SELECT by || ': ' || reason FROM outbox.relay_pause WHERE relay = 'orders'"); got != "anna: Kafka is full" {
		t.Errorf("stored: %s", got)
	}
	s.tend(t, 0)
	if p, _ := s.g.Paused(); p == nil {
		t.Error("forgotten at the next look")
	}
	if err := s.g.Resume(t.Context(), "anna"); err != nil {
		t.Fatal(err)
	}
	if got := s.ask(t, "SELECT relay FROM outbox.relay_pause"); got != "no row" {
		t.Errorf("stored: %s", got)
	}
}

// Without the surface a process can still be paused: it alone, until it ends.
func TestPauseWithoutTheSurface(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t).NewDatabase(t)
	s := newStage(t, db.URL(), db, false)
	var log strings.Builder
	s.g.cfg.Log = zerolog.New(&log)
	s.tend(t, 0)
	s.tend(t, 2*time.Minute)
	if n := strings.Count(log.String(), fault.SQLSurfaceOff.ID); n != 1 {
		t.Errorf("told %d times that it is off:\n%s", n, log.String())
	}
	if err := s.g.Pause(t.Context(), "anna", "x"); err != nil {
		t.Fatal(err)
	}
	s.tend(t, 0)
	if p, _ := s.g.Paused(); p == nil || p.By != "anna" {
		t.Errorf("paused: %+v", p)
	}
	if err := s.g.Resume(t.Context(), "anna"); err != nil {
		t.Fatal(err)
	}
	if p, _ := s.g.Paused(); p != nil {
		t.Errorf("still paused: %+v", p)
	}
	if _, err := SetPause(t.Context(), s.conn, "orders", "anna", "x"); !fault.Has(err, fault.SQLSurfaceOff) {
		t.Errorf("a command has no process to pause: %v", err)
	}
	db.Exec(t, outbox.Surface()...)
	s.tend(t, 2*time.Minute)
	if !s.g.surface.read || !s.g.surface.write {
		t.Error("installed, and not noticed")
	}
}

// What is granted is enough, and less is noticed.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t).NewDatabase(t)
	role := db.Slot("role")
	db.Exec(t, `CREATE ROLE "`+role+`" LOGIN REPLICATION`)
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), db.URL())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), `DROP OWNED BY "`+role+`"; DROP ROLE "`+role+`"`); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	s := newStage(t, u.String(), db, true)
	s.self = Self{State: "streaming", Leading: true, Last: &Last{Seq: 7, LSN: "0/7", At: s.now, Rows: 3}}
	s.tend(t, 0)
	if s.g.surface.read || s.g.surface.write {
		t.Error("without rights it may do something")
	}
	grants := outbox.SurfaceGrants(role)
	db.Exec(t, grants...)
	s.tend(t, 2*time.Minute)
	if got := s.ask(t, "SELECT relay || ' ' || state || ' ' || rows_total FROM outbox.relay_state"); got != "orders streaming 3" {
		t.Errorf("written: %s", got)
	}
	if err := s.g.Pause(t.Context(), "anna", "x"); err != nil {
		t.Fatal(err)
	}
	if p, _ := s.g.Paused(); p == nil || p.Relay != "orders" || s.g.pause.stored == nil {
		t.Errorf("paused: %+v", p)
	}
	// Nobody else may pause.
	if err := asNobody(t, db, "SELECT outbox.pause('x')"); err == nil {
		t.Error("everybody may pause")
	}
	db.Exec(t, `REVOKE UPDATE ON outbox.relay_state FROM "`+role+`"`)
	s.self.Last = &Last{Seq: 8, LSN: "0/8", At: s.now, Rows: 4}
	s.tend(t, 20*time.Second)
	s.tend(t, 20*time.Second)
	if s.g.surface.write || !s.g.surface.read {
		t.Errorf("one right was taken: read %t, write %t", s.g.surface.read, s.g.surface.write)
	}
}

func asNobody(t *testing.T, db *harness.Database, sql string) error {
	t.Helper()
	conn := db.Connect(t)
	if _, err := conn.Exec(t.Context(), `SET ROLE pg_monitor`); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Exec(t.Context(), sql)
	return err
}

// An idle relay writes nothing: what it would write moves the WAL, for which it
// would write a heartbeat, for ever.
func TestStateIsWrittenWhenItChanges(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t).NewDatabase(t)
	s := newStage(t, db.URL(), db, true)
	at := func() string {
		return s.ask(t, "SELECT state || ' ' || coalesce(code, '-') || ' ' || coalesce(rows_total, -1) || ' ' || xmin::text FROM outbox.relay_state WHERE relay = 'orders'")
	}
	s.self = Self{State: "standby"}
	s.tend(t, 0)
	if got := at(); got != "no row" {
		t.Errorf("a standby speaks for the leader: %s", got)
	}
	s.self = Self{State: "streaming", Leading: true}
	s.tend(t, time.Second)
	first := at()
	if !strings.HasPrefix(first, "streaming - -1") {
		t.Fatal(first)
	}
	for seq := range uint64(20) { // heartbeats
		s.self.Last = &Last{Seq: seq, LSN: "0/10", At: s.now, CommitLSN: "0/8", CommitAt: s.now}
		s.self.Commits++
		s.tend(t, 5*time.Second)
	}
	if got := at(); !strings.HasPrefix(got, "streaming - 0") && got != first {
		t.Errorf("after heartbeats: %s, and it was %s", got, first)
	}
	rest := at()
	s.self.Last = &Last{Seq: 99, LSN: "0/20", At: s.now, Rows: 5, Letters: 1}
	s.tend(t, time.Hour)
	if got := at(); !strings.HasPrefix(got, "streaming - 5") || got == rest {
		t.Errorf("after rows: %s", got)
	}
	s.self.Last = &Last{Seq: 100, LSN: "0/30", At: s.now, Rows: 6, Letters: 1}
	s.tend(t, time.Second)
	if got := at(); !strings.HasPrefix(got, "streaming - 5") {
		t.Errorf("a second later: %s", got)
	}
	s.tend(t, 9*time.Second)
	if got := at(); !strings.HasPrefix(got, "streaming - 6") {
		t.Errorf("ten seconds later: %s", got)
	}
	s.self = Self{State: "failed", Code: "OBX-4008", Halted: true}
	s.tend(t, time.Minute)
	if got := at(); !strings.HasPrefix(got, "failed OBX-4008 6") {
		t.Errorf("halted: %s", got)
	}
}

func TestViews(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t).NewDatabase(t)
	s := newStage(t, db.URL(), db, true)
	s.self = Self{State: "streaming", Leading: true, Last: &Last{Seq: 7, LSN: "0/7", At: s.now, CommitLSN: "0/5", CommitAt: s.now, Rows: 30, Letters: 2}}
	s.tend(t, 0)
	db.Exec(t, "CREATE TABLE busy AS SELECT generate_series(1, 1000)")
	if got := s.ask(t, "SELECT relay || ': ' || outlook FROM outbox.relay_slots WHERE slot_name = $1", db.Slot("relay")); got != "orders: nobody reads it: WAL is kept until the disk is full (OBX-4206)" {
		t.Error(got)
	}
	if got := s.ask(t, "SELECT concat_ws(' ', state, paused, rows_total, dlq_total, lag_bytes > 1000, lag_seconds >= 0, checkpoint_lsn) FROM outbox.relay_status WHERE relay = 'orders'"); got != "not running f 30 2 t t 0/7" {
		t.Error(got)
	}
	if got := s.ask(t, "SELECT concat_ws(' ', relay, slot, lag_bytes > 1000) FROM outbox.lag()"); got != "orders "+db.Slot("relay")+" t" {
		t.Error(got)
	}
	db.Exec(t, "SELECT outbox.pause('night')")
	if got := s.ask(t, "SELECT concat_ws(' ', paused, paused_by, paused_reason) FROM outbox.relay_status"); got != "t postgres night" {
		t.Error(got)
	}
	// A slot that was renamed leaves its row, and one line for the relay.
	db.Exec(t, "INSERT INTO outbox.relay_state (relay, slot, state, instance, version, since, updated_at) VALUES ('orders', 'old', 'streaming', 'h', 'v', now(), now() - interval '1 day')")
	if got := s.ask(t, "SELECT count(*) || ' ' || min(slot) FROM outbox.relay_status"); got != "1 "+db.Slot("relay") {
		t.Error(got)
	}
}

// A guard whose pause is in the database says it with its first look.
func TestLook(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t).NewDatabase(t)
	s := newStage(t, db.URL(), db, true)
	s.g.cfg.Interval = time.Hour
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.g.Run(ctx) }()
	db.Exec(t, "SELECT outbox.pause('x')")
	s.g.Look(t.Context())
	if p, _ := s.g.Paused(); p == nil {
		t.Error("looked, and not seen")
	}
	stop()
	<-ended
	late, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	s.g.Look(late) // nobody looks any more: it ends with its context
}
