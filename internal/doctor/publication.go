package doctor

import (
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// tableFacts is the outbox table as the catalogs describe it.
type tableFacts struct {
	Kind        string   `json:"kind"`        // r, p; v, f, m are no table
	Persistence string   `json:"persistence"` // u: unlogged
	Owner       string   `json:"owner"`
	Owned       bool     `json:"owned"` // by the role, or one that it is a member of
	Identity    string   `json:"identity"`
	Primary     bool     `json:"primary"`
	Unique      []string `json:"unique"` // columns that alone are unique
	Columns     []struct {
		Name      string `json:"name"`
		Type      uint32 `json:"type"`
		Generated bool   `json:"generated"`
	} `json:"columns"`
	Default      string   `json:"default"` // its default partition
	DefaultBytes int64    `json:"default_bytes"`
	Public       []string `json:"public"` // what everybody may do
}

const tableSQL = `SELECT jsonb_build_object('kind', c.relkind, 'persistence', c.relpersistence, 'owner', pg_get_userbyid(c.relowner),
  'owned', pg_has_role(current_user, c.relowner, 'USAGE'), 'identity', c.relreplident,
  'primary', EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
  'unique', (SELECT coalesce(jsonb_agg(a.attname), '[]') FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = c.oid AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL),
  'columns', (SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'type', a.atttypid::bigint, 'generated', a.attgenerated <> '') ORDER BY a.attnum)
     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'default', coalesce((SELECT p.partdefid::regclass::text FROM pg_partitioned_table p WHERE p.partrelid = c.oid AND p.partdefid <> 0), ''),
  'default_bytes', coalesce((SELECT pg_relation_size(p.partdefid) FROM pg_partitioned_table p WHERE p.partrelid = c.oid AND p.partdefid <> 0), 0),
  'public', (SELECT coalesce(jsonb_agg(x.privilege_type ORDER BY x.privilege_type), '[]') FROM aclexplode(c.relacl) x WHERE x.grantee = 0))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')`

// publicationFacts is the publication, and what it says of the outbox table.
type publicationFacts struct {
	Owner    string   `json:"owner"`
	All      bool     `json:"all"`
	Insert   bool     `json:"insert"`
	Update   bool     `json:"update"`
	Delete   bool     `json:"delete"`
	Truncate bool     `json:"truncate"`
	Columns  []string `json:"columns"` // that are published of the table; PG 15
	Others   int      `json:"others"`  // tables besides it
	Some     []string `json:"some"`    // of their names
}

const publicationSQL = `WITH others AS (
  SELECT t.schemaname || '.' || t.tablename AS name FROM pg_publication_tables t
    JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
   WHERE t.pubname = $1 AND NOT c.relispartition AND NOT (t.schemaname = $2 AND t.tablename = $3)
     AND NOT (t.schemaname = 'outbox' AND t.tablename = 'canary')) -- the relay's own
SELECT jsonb_build_object('owner', pg_get_userbyid(p.pubowner), 'all', p.puballtables,
  'insert', p.pubinsert, 'update', p.pubupdate, 'delete', p.pubdelete, 'truncate', p.pubtruncate,
  'columns', (SELECT to_jsonb(t)->'attnames' FROM pg_publication_tables t WHERE t.pubname = p.pubname AND t.schemaname = $2 AND t.tablename = $3),
  'others', (SELECT count(*) FROM others), 'some', (SELECT coalesce(jsonb_agg(x.name), '[]') FROM (SELECT name FROM others ORDER BY name LIMIT 3) x))
  FROM pg_publication p WHERE p.pubname = $1`

const partOfSQL = `SELECT coalesce(jsonb_agg(p.pubname ORDER BY p.pubname), '[]') FROM pg_publication p
  WHERE (p.pubupdate OR p.pubdelete) AND EXISTS (SELECT FROM pg_publication_tables t
    WHERE t.pubname = p.pubname AND t.schemaname = $1 AND t.tablename = $2)`

func publicationChecks() []check {
	return []check{
		{Publication, "table", "the outbox table is there, and what is written to it gets into the WAL", fromPostgres, []*fault.Code{fault.TableMissing, fault.TableKind}, tableThere},
		{Publication, "columns", "it has the columns that an event needs, of types that can be read", fromTable, []*fault.Code{fault.ColumnMissing, fault.ColumnGenerated}, tableColumns},
		{Publication, "key", "the id is unique: replays and consumers tell events apart by it", fromTable, []*fault.Code{fault.TableKey}, tableKey},
		{Publication, "default_partition", "the default partition of a partitioned table is empty", fromTable, []*fault.Code{fault.DefaultPartition}, defaultPartition},
		{Publication, "publication", "the publication is there and publishes every insert of the table", fromPostgres, []*fault.Code{fault.PublicationMissing, fault.PublicationShape}, published},
		{Publication, "published_columns", "a column list leaves nothing out that an event needs (Postgres 15)", fromPublication | fromTable, []*fault.Code{fault.PublicationColumns}, publishedColumns},
		{Publication, "operations", "it publishes inserts alone", fromPublication, []*fault.Code{fault.PublicationExtra}, operations},
		{Publication, "tables", "it publishes no other tables", fromPublication, []*fault.Code{fault.PublicationWide}, publishedTables},
		{Publication, "replica_identity", "no publication with updates or deletes has the table without a replica identity", fromTable, []*fault.Code{fault.ReplicaIdentity}, replicaIdentity},
	}
}

func tableThere(w *world) answer {
	t, name := w.pg.table, w.Settings.Outbox.Table
	switch {
	case t == nil:
		return fail(fault.New(fault.TableMissing, "table %s", name))
	case t.Kind != "r" && t.Kind != "p":
		kind := map[string]string{"v": "a view", "m": "a materialised view", "f": "a foreign table"}[t.Kind]
		return fail(fault.New(fault.TableKind, "%s is %s", name, kind).WithWhy("only what is written to a table is in the WAL as an insert").WithFix("set OUTBOX_TABLE to the table behind it"))
	case t.Persistence != "p":
		return fail(fault.New(fault.TableKind, "table %s is unlogged", name).WithWhy("what is written to it is not in the WAL, and a crash empties it").WithFix("ALTER TABLE %s SET LOGGED;", name.SQL()))
	}
	kind := "table"
	if t.Kind == "p" {
		kind = "partitioned table"
	}
	return pass("%s %s, owned by %s", kind, name, t.Owner)
}

func tableColumns(w *world) answer {
	cols, table := w.Settings.Outbox.Columns, w.pg.table
	all := make([]outbox.Column, len(table.Columns))
	for i, c := range table.Columns {
		all[i] = outbox.Column{Name: c.Name, TypeOID: c.Type}
	}
	if _, err := outbox.NewDecoder(cols, all); err != nil {
		return fail(fault.Wrap(err, fault.ColumnMissing, "table %s", w.Settings.Outbox.Table))
	}
	var a answer
	for _, c := range table.Columns {
		if c.Generated && slices.Contains(cols.Names(), c.Name) {
			a.add(Fail, c.Name, fault.New(fault.ColumnGenerated, "column %s of table %s is generated", c.Name, w.Settings.Outbox.Table))
		}
	}
	return a.or("%d, all that are needed", len(all))
}

func tableKey(w *world) answer {
	id := w.Settings.Outbox.Columns.ID
	switch {
	case w.pg.table.Kind != "r":
		return skip("not an ordinary table")
	case slices.Contains(w.pg.table.Unique, id):
		return pass("the id is unique")
	}
	return warn(fault.New(fault.TableKey, "column %s of table %s has no unique index", id, w.Settings.Outbox.Table).
		WithFix("CREATE UNIQUE INDEX CONCURRENTLY ON %s (%s);", w.Settings.Outbox.Table.SQL(), ident(id)))
}

func defaultPartition(w *world) answer {
	t := w.pg.table
	switch {
	case t.Kind != "p":
		return skip("the table is not partitioned")
	case t.DefaultBytes > 0:
		return warn(fault.New(fault.DefaultPartition, "default partition %s holds %s", t.Default, size(t.DefaultBytes)))
	}
	return pass("empty")
}

// published is what a session would be refused for.
func published(w *world) answer {
	p := w.pg
	switch {
	case p.publication == nil:
		return fail(fault.New(fault.PublicationMissing, "publication %s", w.Settings.Outbox.Publication))
	case p.table == nil || fault.Has(p.check, fault.TableMissing):
		return skip("needs the table")
	case fault.Has(p.check, fault.PublicationShape):
		return fail(p.check)
	}
	return pass("%s publishes the inserts of the table", w.Settings.Outbox.Publication)
}

func publishedColumns(w *world) answer {
	list := w.pg.publication.Columns
	if list == nil {
		return pass("no column list")
	}
	var left []string
	for _, c := range w.pg.table.Columns {
		if slices.Contains(w.Settings.Outbox.Columns.Names(), c.Name) && !c.Generated && !slices.Contains(list, c.Name) {
			left = append(left, c.Name)
		}
	}
	if len(left) == 0 {
		return pass("every column that is read")
	}
	return fail(fault.New(fault.PublicationColumns, "publication %s leaves out %s", w.Settings.Outbox.Publication, strings.Join(left, ", ")).
		WithFix("ALTER PUBLICATION %s SET TABLE %s;", ident(w.Settings.Outbox.Publication), w.Settings.Outbox.Table.SQL()))
}

func operations(w *world) answer {
	p := w.pg.publication
	var extra []string
	for _, op := range []struct {
		on   bool
		name string
	}{{p.Update, "update"}, {p.Delete, "delete"}, {p.Truncate, "truncate"}} {
		if op.on {
			extra = append(extra, op.name)
		}
	}
	if len(extra) > 0 {
		return warn(fault.New(fault.PublicationExtra, "publication %s publishes %s as well", w.Settings.Outbox.Publication, strings.Join(extra, ", ")).
			WithFix("ALTER PUBLICATION %s SET (publish = 'insert');", ident(w.Settings.Outbox.Publication)))
	}
	return pass("inserts alone")
}

func publishedTables(w *world) answer {
	p, name := w.pg.publication, ident(w.Settings.Outbox.Publication)
	switch {
	case p.All:
		return warn(fault.New(fault.PublicationWide, "publication %s is FOR ALL TABLES", w.Settings.Outbox.Publication).
			WithFix("with the relay stopped, in one transaction: DROP PUBLICATION %s; CREATE PUBLICATION %s FOR TABLE %s WITH (publish = 'insert', publish_via_partition_root = true);",
				name, name, w.Settings.Outbox.Table.SQL()))
	case p.Others > 0:
		return warn(fault.New(fault.PublicationWide, "publication %s has %d other tables, as %s", w.Settings.Outbox.Publication, p.Others, strings.Join(p.Some, ", ")).
			WithFix("ALTER PUBLICATION %s SET TABLE %s;", name, w.Settings.Outbox.Table.SQL()))
	}
	return pass("the outbox alone")
}

func replicaIdentity(w *world) answer {
	t := w.pg.table
	if len(w.pg.partOf) == 0 {
		return pass("updates and deletes are not published")
	}
	if none := t.Identity == "n" || t.Identity == "d" && !t.Primary; none {
		return fail(fault.New(fault.ReplicaIdentity, "table %s has no replica identity, and publication %s publishes its updates or deletes", w.Settings.Outbox.Table, strings.Join(w.pg.partOf, ", ")))
	}
	return pass("there is one")
}

func asPg(err error, into **pgconn.PgError) bool { return errors.As(err, into) }
