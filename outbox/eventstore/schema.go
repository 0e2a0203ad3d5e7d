package eventstore

import (
	"embed"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/outbox"
)

// DefaultTable is the table of the log.
const DefaultTable = "outbox.event_log"

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the schema as numbered files in goose's form, for the
// default table. The outbox table has its own: see [outbox.Migrations].
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return sub
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
	text, err := migrations.ReadFile(schemaFile)
	if err != nil {
		panic(err) // the file is compiled in
	}
	_, up, _ := strings.Cut(string(text), "-- +goose Up\n")
	up, _, _ = strings.Cut(up, "-- +goose Down\n")
	var statements []string
	for _, s := range strings.Split(up, ";\n") {
		s = strings.TrimSpace(s)
		switch {
		case s == "":
		case strings.HasPrefix(s, "CREATE SCHEMA"):
			if t.Schema != "" {
				statements = append(statements, strings.Replace(s, "outbox", pgx.Identifier{t.Schema}.Sanitize(), 1))
			}
		default:
			statements = append(statements, strings.Replace(s, DefaultTable, t.SQL(), 1))
		}
	}
	return statements, nil
}
