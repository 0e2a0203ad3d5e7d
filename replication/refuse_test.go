package replication_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

// TestOpenRefuses: what would make streaming pointless or wrong is named
// before the slot is taken.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, s *site)
		want  *fault.Code
		fix   string // part of the remedy
	}{
		{"nothing is wrong", func(*testing.T, *site) {}, nil, ""},
		{"slot missing", func(t *testing.T, s *site) { s.dropSlot(t) }, fault.SlotMissing, ""},
		{"slot of another plugin", func(t *testing.T, s *site) {
			s.dropSlot(t)
			s.Exec(t, `SELECT pg_create_logical_replication_slot('`+s.cfg.Slot+`', 'test_decoding')`)
		}, fault.SlotShape, ""},
		{"slot with two_phase", func(t *testing.T, s *site) {
			s.dropSlot(t)
			s.Exec(t, `SELECT pg_create_logical_replication_slot('`+s.cfg.Slot+`', 'pgoutput', false, true)`)
		}, fault.SlotShape, ""},
		{"slot of another database", func(t *testing.T, s *site) {
			s.dropSlot(t)
			other := pg.NewDatabase(t)
			other.Exec(t, `SELECT pg_create_logical_replication_slot('`+s.cfg.Slot+`', 'pgoutput')`)
		}, fault.SlotShape, ""},
		{"physical slot", func(t *testing.T, s *site) {
			s.dropSlot(t)
			s.Exec(t, `SELECT pg_create_physical_replication_slot('`+s.cfg.Slot+`')`)
			t.Cleanup(func() { s.dropSlot(t) })
		}, fault.SlotShape, ""},
		{"table missing", func(t *testing.T, s *site) { s.cfg.Table = "nothing" }, fault.TableMissing, "init"},
		{"table in another schema", func(t *testing.T, s *site) { s.cfg.Schema = "public" }, fault.TableMissing, "init"},
		{"publication missing", func(t *testing.T, s *site) { s.Exec(t, `DROP PUBLICATION "outbox pub"`) }, fault.PublicationMissing, "init"},
		{"publication without inserts", func(t *testing.T, s *site) {
			s.Exec(t, `ALTER PUBLICATION "outbox pub" SET (publish = 'update')`)
		}, fault.PublicationShape, `ALTER PUBLICATION "outbox pub" SET (publish = 'insert')`},
		{"publication without the table", func(t *testing.T, s *site) {
			s.Exec(t, `ALTER PUBLICATION "outbox pub" DROP TABLE outbox.events`)
		}, fault.PublicationShape, `ALTER PUBLICATION "outbox pub" ADD TABLE "outbox"."events"`},
		{"publication with a row filter", func(t *testing.T, s *site) {
			if version(t, s) < 150000 {
				t.Skip("row filters came with Postgres 15")
			}
			s.Exec(t, `ALTER PUBLICATION "outbox pub" SET TABLE outbox.events WHERE (id > 'm')`)
		}, fault.PublicationShape, "SET TABLE"},
		{"partitions under their own names", func(t *testing.T, s *site) {
			s.Exec(t, `DROP TABLE outbox.events`, `CREATE TABLE outbox.events (id text) PARTITION BY HASH (id)`,
				`CREATE TABLE outbox.p0 PARTITION OF outbox.events FOR VALUES WITH (MODULUS 1, REMAINDER 0)`,
				`ALTER PUBLICATION "outbox pub" SET TABLE outbox.events`, `ALTER PUBLICATION "outbox pub" SET (publish_via_partition_root = false)`)
		}, fault.PublicationShape, "publish_via_partition_root"},
		{"partitions under the root's name", func(t *testing.T, s *site) {
			s.Exec(t, `DROP TABLE outbox.events`, `CREATE TABLE outbox.events (id text) PARTITION BY HASH (id)`,
				`CREATE TABLE outbox.p0 PARTITION OF outbox.events FOR VALUES WITH (MODULUS 1, REMAINDER 0)`,
				`ALTER PUBLICATION "outbox pub" SET TABLE outbox.events`)
		}, nil, ""},
		{"publication of everything", func(t *testing.T, s *site) {
			s.Exec(t, `DROP PUBLICATION "outbox pub"`, `CREATE PUBLICATION "outbox pub" FOR ALL TABLES`)
		}, nil, ""},
		{"role without REPLICATION", func(t *testing.T, s *site) { s.as(t, "LOGIN") }, fault.NoReplicationRole, "WITH REPLICATION"},
		{"role with REPLICATION and nothing else", func(t *testing.T, s *site) { s.as(t, "LOGIN REPLICATION") }, nil, ""},
		{"role unknown", func(t *testing.T, s *site) { s.cfg.Conn.User = "nobody_of_that_name" }, fault.PostgresAuth, ""},
		{"database missing", func(t *testing.T, s *site) { s.cfg.Conn.Database = "nothing_of_that_name" }, fault.DatabaseMissing, ""},
		{"nobody listens", func(t *testing.T, s *site) {
			s.cfg.Conn = parse(t, "postgres://postgres@"+closedPort(t)+"/x?sslmode=disable")
		}, fault.PostgresUnreachable, ""},
		{"publication name that needs quoting", func(t *testing.T, s *site) {
			s.Exec(t, `DROP PUBLICATION "outbox pub"`)
			s.cfg.Publication = `it's "odd", (very)`
			s.Exec(t, s.cfg.CreatePublicationSQL())
		}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pg)
			c.spoil(t, s)
			src, err := open(t, s.cfg)
			if err == nil {
				src.Close()
			}
			switch {
			case c.want == nil && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != nil && fault.CodeOf(err) != c.want:
				t.Errorf("got %v, want %s", err, c.want.Name)
			case c.want != nil && !strings.Contains(fault.As(err).Remedy(), c.fix):
				t.Errorf("remedy %q does not say %q", fault.As(err).Remedy(), c.fix)
			}
		})
	}
}

// dropSlot is also for cleanups, when the test's context has ended.
func (s *site) dropSlot(t testing.TB) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, s.cfg.Slot); err != nil {
		t.Fatal(err)
	}
}

// as makes a role and has the site's configuration use it.
func (s *site) as(t testing.TB, attributes string, settings ...string) {
	t.Helper()
	role := s.Name + "_role"
	s.Exec(t, `CREATE ROLE `+role+` `+attributes)
	for _, set := range settings {
		s.Exec(t, `ALTER ROLE `+role+` SET `+set)
	}
	conn := s.Connect(t)
	t.Cleanup(func() {
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), `DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	s.cfg.Conn = s.cfg.Conn.Copy()
	s.cfg.Conn.User = role
}

func version(t testing.TB, s *site) (v int) {
	t.Helper()
	if err := s.Connect(t).QueryRow(t.Context(), `SELECT current_setting('server_version_num')::int`).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWalLevel(t *testing.T) {
	t.Parallel()
	pg := harness.NewPostgres(t, harness.PostgresConfig{Settings: map[string]string{"wal_level": "replica"}})
	db := pg.NewDatabase(t)
	_, err := open(t, replication.Config{Conn: parse(t, db.URL()), Slot: "s", Publication: "p", Schema: "outbox", Table: "events"})
	if !fault.Has(err, fault.WalLevel) {
		t.Errorf("got %v", err)
	}
}

// TestRoleSettings: what a role has set for its own taste does not reach the
// decoder.
func TestRoleSettings(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	s.Exec(t, `ALTER TABLE outbox.events ADD COLUMN at timestamptz, ADD COLUMN f float8, ADD COLUMN i interval`)
	s.as(t, "LOGIN REPLICATION", `bytea_output = 'escape'`, `DateStyle = 'German'`, `TimeZone = 'Asia/Kolkata'`,
		`IntervalStyle = 'sql_standard'`, `extra_float_digits = -10`, `client_encoding = 'LATIN1'`, `client_min_messages = 'error'`)
	src := run(t, s.cfg)
	src.Resume(replication.Resume{})
	s.Exec(t, `INSERT INTO outbox.events VALUES ('ü', '\x00ff41', '2026-03-01 12:00:00+00', 0.1::float8 + 0.2, '1 day 2 hours')`)
	var got []string
	for _, v := range src.next().Rows[0].Values {
		got = append(got, string(v))
	}
	want := `ü|\x00ff41|2026-03-01 12:00:00+00|0.30000000000000004|1 day 02:00:00`
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

// TestHostsTried: a standby or a dead host in the list is passed over, and
// when none is left the first one's error speaks.
func TestHostsTried(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	dead := closedPort(t)
	u := s.cfg.Conn
	s.cfg.Conn = parse(t, "postgres://"+u.User+"@"+dead+","+strings.Split(strings.Split(s.URL(), "@")[1], "/")[0]+"/"+s.Name+"?sslmode=disable")
	src, err := open(t, s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if host := src.State().Host; strings.Contains(host, dead) {
		t.Errorf("reads from %s", host)
	}
	src.Close()

	s.cfg.Conn = parse(t, "postgres://"+u.User+"@"+dead+","+closedPort(t)+"/"+s.Name+"?sslmode=disable")
	if _, err := open(t, s.cfg); !fault.Has(err, fault.PostgresUnreachable) || !strings.Contains(err.Error(), "any of 2 hosts") {
		t.Errorf("got %v", err)
	}
}
