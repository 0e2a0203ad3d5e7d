package outbox

import (
	"embed"
	"io/fs"

	"github.com/holdwall/outbox-relay/internal/migration"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the schema as numbered files in goose's form, for the
// default table.
func Migrations() fs.FS {
	return migration.Folder(migrations, "migrations")
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
