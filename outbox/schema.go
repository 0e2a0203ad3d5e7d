package outbox

import (
	"embed"
	"io/fs"
	"unicode/utf8"

	"github.com/holdwall/outbox-relay/internal/migration"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed partitioned/*.sql
var partitioned embed.FS

// Migrations returns the schema as numbered files in goose's form, for the
// default table.
func Migrations() fs.FS {
	return migration.Folder(migrations, "migrations")
}

// PartitionedMigrations is [Migrations] for a table that is partitioned by time.
func PartitionedMigrations() fs.FS {
	return migration.Folder(partitioned, "partitioned")
}

// partitionedFile is the only place where the DDL of the variant is written down.
const partitionedFile = "partitioned/0001_events.sql"

// SchemaPartitioned is [Schema] for a table that is partitioned by created_at,
// with a default partition named after it. Nothing else differs for those who
// write to it.
func SchemaPartitioned(table string) ([]string, error) {
	t, err := ParseTable(table)
	if err != nil {
		return nil, err
	}
	named := func(suffix string) string {
		n := t
		n.Name = clip(t.Name, maxIdentifier-len(suffix)) + suffix
		return n.SQL()
	}
	index := Table{Name: clip(t.Name, maxIdentifier-len("_id_idx")) + "_id_idx"}
	return migration.Up(partitioned, partitionedFile, migration.Table{
		Default: DefaultTable, Schema: t.Schema, SQL: t.SQL(),
		Related: [][2]string{{DefaultTable + "_default", named("_default")}, {"events_id_idx", index.SQL()}},
	}), nil
}

// clip shortens a name to a number of bytes, between two characters.
func clip(name string, most int) string {
	for len(name) > most {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}

// schemaFile is the only place where the DDL is written down.
const schemaFile = "migrations/0001_events.sql"

// Schema returns the statements that create the table of the given name, as
// [ParseTable] reads it, and its schema. They change nothing where both exist.
func Schema(table string) ([]string, error) {
	t, err := ParseTable(table)
	if err != nil {
		return nil, err
	}
	return migration.Up(migrations, schemaFile, migration.Table{Default: DefaultTable, Schema: t.Schema, SQL: t.SQL()}), nil
}
