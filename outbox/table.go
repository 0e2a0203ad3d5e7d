package outbox

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// DefaultTable is the table that [Append] writes to.
const DefaultTable = "outbox.events"

// Table is the parsed name of a table. An empty Schema leaves the search to
// Postgres' search_path.
type Table struct{ Schema, Name string }

// ParseTable reads a name as SQL does: "schema.table" or "table", where a part
// in double quotes is taken as it stands, a quote inside doubled, and a part
// without them is folded to lower case.
func ParseTable(s string) (Table, error) {
	var parts []string
	rest := strings.TrimSpace(s)
	for {
		part, tail, err := cutIdentifier(rest)
		if err != nil {
			return Table{}, fmt.Errorf("table name %q: %w", s, err)
		}
		parts = append(parts, part)
		if tail == "" {
			break
		}
		rest = tail[1:]
	}
	switch len(parts) {
	case 1:
		return Table{Name: parts[0]}, nil
	case 2:
		return Table{Schema: parts[0], Name: parts[1]}, nil
	}
	return Table{}, fmt.Errorf("table name %q has more than a schema and a table", s)
}

// cutIdentifier splits off the first part of a dotted name. The tail is empty
// or begins with a dot.
func cutIdentifier(s string) (part, tail string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexByte(s, '.')
		if end < 0 {
			end = len(s)
		}
		part, tail = strings.ToLower(s[:end]), s[end:]
		for i, r := range part {
			letter := r == '_' || r >= 0x80 || r >= 'a' && r <= 'z'
			if !letter && (i == 0 || r != '$' && (r < '0' || r > '9')) {
				return "", "", fmt.Errorf("%q has to be in double quotes", string(r))
			}
		}
	} else {
		var b strings.Builder
		i := 1
		for ; ; i++ {
			if i >= len(s) {
				return "", "", fmt.Errorf("a double quote is not closed")
			}
			if s[i] == '"' {
				if i+1 >= len(s) || s[i+1] != '"' {
					break
				}
				i++
			}
			b.WriteByte(s[i])
		}
		part, tail = b.String(), s[i+1:]
		if tail != "" && tail[0] != '.' {
			return "", "", fmt.Errorf("text follows a closing double quote")
		}
	}
	switch {
	case part == "":
		return "", "", fmt.Errorf("a part is empty")
	case len(part) > maxIdentifier:
		return "", "", fmt.Errorf("a part is longer than the %d bytes Postgres allows", maxIdentifier)
	case textFault(part) != "":
		return "", "", fmt.Errorf("a part %s", textFault(part))
	}
	return part, tail, nil
}

// SQL returns the name quoted for a statement.
func (t Table) SQL() string {
	if t.Schema == "" {
		return pgx.Identifier{t.Name}.Sanitize()
	}
	return pgx.Identifier{t.Schema, t.Name}.Sanitize()
}

// String returns schema.table without quotes, for messages.
func (t Table) String() string {
	if t.Schema == "" {
		return t.Name
	}
	return t.Schema + "." + t.Name
}
