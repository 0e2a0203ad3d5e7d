package harness

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Database is one test's own. Slots belong to a database, so they are apart
// too and may have the product's default names only once per server: use
// Slot for a name that is this test's.
type Database struct {
	Name   string
	pg     *PostgresServer
	others []*PostgresServer
}

// nameCount tells the databases and prefixes of one test binary apart.
var nameCount atomic.Uint64

// uniqueName is the same for nobody else on a shared server, in lower case
// letters and digits: packages run in parallel processes, and a test may ask
// more than once.
func uniqueName(t testing.TB) string {
	h := fnv.New32a()
	h.Write([]byte(t.Name()))
	return fmt.Sprintf("t%x_%x_%d", h.Sum32(), os.Getpid(), nameCount.Add(1))
}

// NewDatabase makes an empty database. At the end of the test its slots and
// then the database itself are dropped, whoever is still connected; if the
// server does not run by then, it is left to whoever stopped the server.
func (pg *PostgresServer) NewDatabase(t testing.TB) *Database {
	t.Helper()
	db := &Database{Name: uniqueName(t), pg: pg}
	conn, err := pgx.Connect(t.Context(), pg.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+pgx.Identifier{db.Name}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if pg.proc != nil && (!pg.proc.running() || len(db.others) > 0) {
			return // gone, or to go with its server
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := db.drop(ctx); err != nil {
			t.Errorf("drop database %s: %v", db.Name, err)
		}
	})
	return db
}

// URL returns how to connect: to whichever of its servers is the primary.
func (db *Database) URL() string {
	if len(db.others) == 0 {
		return db.pg.URL(db.Name)
	}
	return PostgresHosts(db.Name, append([]*PostgresServer{db.pg}, db.others...)...)
}

// Also adds servers that may become the primary.
func (db *Database) Also(standbys ...*PostgresServer) { db.others = append(db.others, standbys...) }

// PostgresHosts is a URL of several hosts, of which the primary is meant.
func PostgresHosts(db string, all ...*PostgresServer) string {
	u := *all[0].url
	u.Path = "/" + db
	hosts := make([]string, len(all))
	for i, pg := range all {
		hosts[i] = pg.url.Host
	}
	u.Host = strings.Join(hosts, ",")
	q := u.Query()
	q.Set("target_session_attrs", "read-write")
	u.RawQuery = q.Encode()
	return u.String()
}

// Slot returns a name that is free on the server: slot names are the server's,
// not the database's.
func (db *Database) Slot(name string) string { return db.Name + "_" + name }

// Connect returns a connection that is closed at the end of the test.
func (db *Database) Connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		conn.Close(ctx) // its server may be gone, which is what the test was about
	})
	return conn
}

// Exec runs statements on a connection of their own.
func (db *Database) Exec(t testing.TB, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func (db *Database) drop(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, db.pg.URL(""))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if err := dropSlots(ctx, conn, db.Name); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "DROP DATABASE "+pgx.Identifier{db.Name}.Sanitize()+" WITH (FORCE)")
	return err
}

// dropSlots ends whoever reads a slot of the database and drops it. Between
// the two a walsender takes its time to end, and a client may come back.
func dropSlots(ctx context.Context, conn *pgx.Conn, db string) error {
	const (
		ask = `SELECT slot_name, pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1`

		objectInUse     = "55006"
		undefinedObject = "42704" // a temporary slot went with its session
	)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		rows, err := conn.Query(ctx, ask, db)
		if err != nil {
			return err
		}
		var slot string
		var slots []string
		if _, err := pgx.ForEachRow(rows, []any{&slot, nil}, func() error { slots = append(slots, slot); return nil }); err != nil {
			return err
		}
		left := 0
		for _, slot := range slots {
			_, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", slot)
			var refused *pgconn.PgError
			switch {
			case err == nil:
			case errors.As(err, &refused) && refused.Code == objectInUse:
				left++
			case errors.As(err, &refused) && refused.Code == undefinedObject:
			default:
				return fmt.Errorf("drop slot %s: %w", slot, err)
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("drop %d slots: %w", left, context.Cause(ctx))
		}
	}
}
