package provision_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

const surfaceObjects = `SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_class c
  WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r','v') AND c.relname <> 'events'`

func TestSurfaceIsInstalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustRun(t)
	const want = "canary relay_pause relay_slots relay_state relay_status"
	if got := w.ask(t, surfaceObjects); got != want {
		t.Errorf("installed: %s", got)
	}
	w.db.Exec(t, "SELECT outbox.pause('kept')")
	if out := w.mustRun(t); out.Created {
		t.Error("created twice")
	}
	if got := w.ask(t, "SELECT reason FROM outbox.relay_pause"); got != "kept" {
		t.Errorf("a second init touches what is there: %s", got)
	}
	// An installation from before there was one.
	w.db.Exec(t, "DROP FUNCTION outbox.relay_surface(), outbox.resume(text), outbox.pause(text, text, text), outbox.lag()",
		"DROP VIEW outbox.relay_status, outbox.relay_slots", "DROP TABLE outbox.canary, outbox.relay_pause, outbox.relay_state")
	w.mustRun(t)
	if got := w.ask(t, surfaceObjects); got != want {
		t.Errorf("what was missing: %s", got)
	}
}

// A table that was made for another router, in another schema, by somebody else:
// the surface is beside it, and where it cannot be, the relay is made all the
// same.
func TestSurfaceBesideAForeignTable(t *testing.T) {
	t.Parallel()
	for name, mayCreate := range map[string]bool{"a role that may create": true, "a role that may not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.plan.Table = outbox.Table{Schema: "shop", Name: "outboxevent"}
			w.plan.Source.Schema, w.plan.Source.Table = "shop", "outboxevent"
			w.as(t, "owner", "REPLICATION")
			role := w.plan.Source.Conn.User
			w.db.Exec(t, `CREATE SCHEMA shop AUTHORIZATION "`+role+`"`,
				`CREATE TABLE shop.outboxevent (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb)`,
				`ALTER TABLE shop.outboxevent OWNER TO "`+role+`"`,
				`CREATE PUBLICATION outbox_pub FOR TABLE shop.outboxevent WITH (publish = 'insert')`,
				`ALTER PUBLICATION outbox_pub OWNER TO "`+role+`"`)
			if mayCreate {
				w.db.Exec(t, `GRANT CREATE ON DATABASE "`+w.db.Name+`" TO "`+role+`"`)
			}
			var log bytes.Buffer
			w.plan.Log = zerolog.New(&log)
			if out := w.mustRun(t); !out.Created {
				t.Error("not created")
			}
			installed := w.ask(t, "SELECT (count(*) > 0)::text FROM pg_proc WHERE proname = 'relay_surface'") == "true"
			if told := strings.Contains(log.String(), fault.SQLSurfaceOff.ID); installed != mayCreate || told == mayCreate {
				t.Errorf("installed %t, told that it is off %t:\n%s", installed, told, log.String())
			}
			if got := w.ask(t, "SELECT count(*)::text FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r','v')"); got != "1" {
				t.Errorf("%s tables and views in a schema that is not ours", got)
			}
		})
	}
}

// Somebody else's object of the same name is not replaced.
func TestSurfaceReplacesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.Exec(t, "CREATE SCHEMA outbox", "CREATE FUNCTION outbox.lag() RETURNS text LANGUAGE sql AS $$ SELECT 'mine' $$")
	w.mustRun(t)
	if got := w.ask(t, "SELECT outbox.lag()"); got != "mine" {
		t.Errorf("replaced: %s", got)
	}
	if got := w.ask(t, surfaceObjects); got != "null" {
		t.Errorf("half an installation: %s", got)
	}
}

// Another role that relays gets what it needs, once it exists.
func TestSurfaceGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.plan.Role = w.db.Slot("nobody")
	w.mustRun(t) // no such role
	w.as(t, "relay", "REPLICATION")
	w.plan.Role = w.plan.Source.Conn.User
	owner := newWorld(t)
	w.plan.Source.Conn = owner.plan.Source.Conn.Copy()
	w.plan.Source.Conn.Database = w.db.Name
	w.mustRun(t)
	if got := w.ask(t, "SELECT has_table_privilege('"+w.plan.Role+"', 'outbox.relay_state', 'UPDATE')::text"); got != "true" {
		t.Error("nothing was granted")
	}
}

// The canary is in the publication when it is wanted, also of a relay that was
// initialised without.
func TestCanaryIsPublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const tables = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_publication_tables"
	w.mustRun(t)
	if got := w.ask(t, tables); got != "events" {
		t.Errorf("published: %s", got)
	}
	w.plan.Canary = true
	for range 2 {
		w.mustRun(t)
		if got := w.ask(t, tables); got != "canary events" {
			t.Errorf("published: %s", got)
		}
	}
}
