// Package migration reads the SQL files of the public libraries.
//
// Its job: one file in goose's form, written for a default table, becomes the
// statements for a table of another name. It is the one reading of such files,
// so that what a person runs with goose and what a program creates are the same.
//
// It leaves to others where the files are, and how a table's name is read.
package migration

import (
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Folder returns the files of a folder that is compiled in.
func Folder(files fs.FS, name string) fs.FS {
	sub, err := fs.Sub(files, name)
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return sub
}

// Table is the table that statements are for.
type Table struct {
	Default string // its name in the file
	Schema  string // unquoted; "": the search path decides, and no schema is created
	SQL     string // quoted, as it stands in a statement
	// Related are names in the file that contain or go with the table's, each
	// with its quoted form. A longer name stands before one that it begins with.
	Related [][2]string
}

// Up returns the statements of a compiled-in file up to its "Down" part.
func Up(files fs.FS, file string, table Table) []string {
	text, err := fs.ReadFile(files, file)
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
			if table.Schema != "" {
				statements = append(statements, strings.Replace(s, "outbox", pgx.Identifier{table.Schema}.Sanitize(), 1))
			}
		default:
			statements = append(statements, table.rename(s))
		}
	}
	return statements
}

func (t Table) rename(s string) string {
	if len(t.Related) == 0 {
		return strings.Replace(s, t.Default, t.SQL, 1)
	}
	var pairs []string
	for _, r := range t.Related {
		pairs = append(pairs, r[0], r[1])
	}
	// At each place the first name that fits is taken.
	return strings.NewReplacer(append(pairs, t.Default, t.SQL)...).Replace(s)
}
