package eventstore

import (
	"embed"
	"io/fs"

	"github.com/holdwall/outbox-relay/internal/migration"
	"github.com/holdwall/outbox-relay/outbox"
)

// DefaultTable is the table of the log.
const DefaultTable = "outbox.event_log"

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the schema as numbered files in goose's form, for the
// default table. The outbox table has its own: see [outbox.Migrations].
func Migrations() fs.FS {
	return migration.Folder(migrations, "migrations")
}

// schemaFile is the only place where the DDL is written down.
const schemaFile = "migrations/0001_event_log.sql"

// Schema returns the statements that create the log of the given name, as
// [outbox.ParseTable] reads it, and its schema. They change nothing where both
// exist.
func Schema(table string) ([]string, error) {
	t, err := outbox.ParseTable(table)
	if err != nil {
		return nil, err
	}
	return migration.Up(migrations, schemaFile, migration.Table{Default: DefaultTable, Schema: t.Schema, SQL: t.SQL()}), nil
}
