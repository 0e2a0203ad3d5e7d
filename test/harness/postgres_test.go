package harness

import (
	"context"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestPostgresLife(t *testing.T) {
	t.Parallel()
	pg := NewPostgres(t, PostgresConfig{
		Settings: map[string]string{"wal_sender_timeout": "2s", "application_name": "it's quoted"},
		InitArgs: []string{"--wal-segsize=1"},
	})
	ctx := within(t, 60*time.Second)
	db := pg.NewDatabase(t)
	db.Exec(t, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (1)")

	for setting, want := range map[string]string{
		"wal_level": "logical", "max_wal_senders": "30", "max_replication_slots": "30", "fsync": "off",
		"wal_sender_timeout": "2s", "wal_segment_size": "1MB", "application_name": "it's quoted", "lc_messages": "C",
	} {
		if got := ask(t, db.URL(), "SHOW "+setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}

	kids := func() int {
		list, err := children(pg.proc.pid())
		mustBeNil(t, err)
		return len(list)
	}
	if err := pg.Start(ctx); err == nil {
		t.Fatal("started twice")
	}
	// Each way down, with a backend at work, and the data is there after it.
	down := map[string]func() error{
		"kill": pg.Kill,
		// Frozen backends do not see that their postmaster died, and one that
		// stays refuses the next start.
		"kill, frozen": func() error { return errors.Join(pg.Pause(), pg.Kill()) },
		"fast":         func() error { return pg.Stop(ctx, Fast) },
		"immediate":    func() error { return pg.Stop(ctx, Immediate) },
	}
	for name, stop := range down {
		db.Connect(t)
		if kids() == 0 {
			t.Fatalf("%s: no backends", name)
		}
		mustBeNil(t, stop())
		if pg.proc.running() {
			t.Fatalf("%s: it runs", name)
		}
		if _, err := pgx.Connect(ctx, db.URL()); err == nil {
			t.Fatalf("%s: it answers", name)
		}
		mustBeNil(t, pg.Start(ctx))
		if got := ask(t, db.URL(), "SELECT count(*)::text FROM kept"); got != "1" {
			t.Fatalf("%s: %s rows", name, got)
		}
	}

	// Smart waits for the sessions.
	conn := db.Connect(t)
	short, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	if err := pg.Stop(short, Smart); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("smart: got %v with a session open", err)
	}
	mustBeNil(t, conn.Close(ctx))
	mustBeNil(t, pg.Stop(ctx, Smart))
	mustBeNil(t, pg.Start(ctx))
	mustBeNil(t, pg.RestartImmediate(ctx))

	// A frozen server keeps the connection and says nothing. A cancelled query
	// would cost the connection, so the answer is awaited in the background.
	conn = db.Connect(t)
	mustBeNil(t, pg.Pause())
	answered := make(chan struct{})
	var err error
	go func() {
		defer close(answered)
		_, err = conn.Exec(ctx, "SELECT 1")
	}()
	select {
	case <-answered:
		t.Fatalf("an answer from a frozen server: %v", err)
	case <-time.After(silence):
	}
	mustBeNil(t, pg.Resume())
	await(t, "the answer", answered)
	mustBeNil(t, err)
	if err := pg.Stop(ctx, "gently"); err == nil {
		t.Error("stopped in a mode that does not exist")
	}
	if !strings.Contains(pg.Log(1000), "ready to accept connections") {
		t.Error("the log is not there")
	}
}

func ask(t *testing.T, url, sql string) (answer string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	mustBeNil(t, err)
	defer conn.Close(t.Context())
	mustBeNil(t, conn.QueryRow(t.Context(), sql).Scan(&answer))
	return answer
}

// A database goes although its slot is being read and sessions are open.
func TestDatabaseIsDropped(t *testing.T) {
	t.Parallel()
	pg := Postgres(t)
	var names []string
	t.Run("inner", func(t *testing.T) {
		for range 2 {
			db := pg.NewDatabase(t)
			names = append(names, db.Name)
			db.Exec(t, "CREATE TABLE e (n int)", "CREATE PUBLICATION p FOR TABLE e")
			mustBeNil(t, db.Connect(t).Ping(t.Context()))
			readSlot(t, db, db.Slot("s"))
		}
	})
	if len(names) != 2 || names[0] == names[1] {
		t.Fatalf("names %v", names)
	}
	for _, name := range names {
		if got := ask(t, pg.URL(""), "SELECT count(*)::text FROM pg_replication_slots WHERE database = '"+name+"'"); got != "0" {
			t.Errorf("%s slots of %s are left", got, name)
		}
		if got := ask(t, pg.URL(""), "SELECT count(*)::text FROM pg_database WHERE datname = '"+name+"'"); got != "0" {
			t.Errorf("%s is left", name)
		}
	}
}

// readSlot makes a slot and leaves a walsender on it, as a relay would that
// outlives its test.
func readSlot(t *testing.T, db *Database, slot string) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), db.URL()+"&replication=database")
	mustBeNil(t, err)
	_, err = pglogrepl.CreateReplicationSlot(t.Context(), conn, slot, "pgoutput", pglogrepl.CreateReplicationSlotOptions{})
	mustBeNil(t, err)
	mustBeNil(t, pglogrepl.StartReplication(t.Context(), conn, slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'p'"},
	}))
}

func TestURL(t *testing.T) {
	t.Parallel()
	u, err := url.Parse("postgres://a:b@host:1/base?sslmode=disable")
	mustBeNil(t, err)
	pg := &PostgresServer{url: u}
	if got := pg.URL("other"); got != "postgres://a:b@host:1/other?sslmode=disable" {
		t.Error(got)
	}
	if got := pg.URL(""); got != u.String() {
		t.Error(got)
	}
	// A server that was given is nobody's to break.
	for name, f := range map[string]func() error{
		"Start": func() error { return pg.Start(t.Context()) }, "Kill": pg.Kill, "Pause": pg.Pause, "Resume": pg.Resume,
		"Stop": func() error { return pg.Stop(t.Context(), Fast) },
	} {
		if err := f(); !errors.Is(err, errNotOurs) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	mustBeNil(t, pg.Close())
}

func TestFindPostgres(t *testing.T) {
	t.Setenv("OUTBOX_TEST_PG_BIN", t.TempDir())
	var missing *MissingError
	// Named and not there is a mistake, not a machine without Postgres.
	if _, err := findPostgres(t.Context(), account{}, 0); err == nil || errors.As(err, &missing) {
		t.Errorf("got %v", err)
	}
	if got := debianVersion("/usr/lib/postgresql/15/bin"); got != 15 {
		t.Errorf("got %d", got)
	}
}

func TestTempDirIsReachable(t *testing.T) {
	closed := t.TempDir()
	mustBeNil(t, os.Chmod(closed, 0o700))
	if passable(closed) {
		t.Error("others can pass a folder of mode 0700")
	}
	t.Setenv("TMPDIR", closed)
	as, err := postgresAccount()
	mustBeNil(t, err)
	dir, err := as.tempDir()
	mustBeNil(t, err)
	defer os.RemoveAll(dir)
	if as.switched == strings.HasPrefix(dir, closed) {
		t.Errorf("%s got %s with a closed TMPDIR", as.name, dir)
	}
}
