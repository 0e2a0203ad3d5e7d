package outbox

import (
	"fmt"
	"slices"
	"strings"
)

// Columns are the names of the table's columns. Names are matched exactly, as
// the catalog spells them. An empty name means that the table has no such
// column; the five that are needed cannot be empty.
type Columns struct {
	ID, AggregateType, AggregateID, Type, Payload string

	PayloadBytes, Headers, Topic, MessageKey, Partition string
	ContentType, SchemaVersion, TraceParent, TraceState string
	CreatedAt                                           string

	// SpanContext is Debezium's column for a trace context, as the text of Java
	// properties. It is read where TraceParent says nothing, and never written.
	SpanContext string
}

// maxIdentifier is the length to which Postgres cuts a name; a longer one can
// match no column.
const maxIdentifier = 63

// neededFields counts the fields at the head of fields() that a table must
// have.
const neededFields = 5

type columnField struct {
	field string // name in ParseColumns, and the default name of the column
	name  *string
}

// fields lists the columns in the order in which the writer names them.
func (c *Columns) fields() []columnField {
	return []columnField{
		{"id", &c.ID},
		{"aggregatetype", &c.AggregateType},
		{"aggregateid", &c.AggregateID},
		{"type", &c.Type},
		{"payload", &c.Payload},
		{"payload_bytes", &c.PayloadBytes},
		{"headers", &c.Headers},
		{"topic", &c.Topic},
		{"message_key", &c.MessageKey},
		{"kafka_partition", &c.Partition},
		{"content_type", &c.ContentType},
		{"schema_version", &c.SchemaVersion},
		{"traceparent", &c.TraceParent},
		{"tracestate", &c.TraceState},
		{"created_at", &c.CreatedAt},
		{"tracingspancontext", &c.SpanContext},
	}
}

// DefaultColumns returns the names of the package's own schema, of which the
// first five are Debezium's.
func DefaultColumns() Columns {
	var c Columns
	for _, f := range c.fields() {
		*f.name = f.field
	}
	return c
}

// ParseColumns reads a list such as "payload=data,aggregateid=agg_id". What is
// not named keeps its default; "created_at=" says that the table has no such
// column, or that the column of that name means something else.
func ParseColumns(s string) (Columns, error) {
	c := DefaultColumns()
	if strings.TrimSpace(s) == "" {
		return c, nil
	}
	fields := c.fields()
	seen := make([]bool, len(fields))
	for _, part := range strings.Split(s, ",") {
		part = strings.TrimSpace(part)
		field, name, ok := strings.Cut(part, "=")
		field, name = strings.TrimSpace(field), strings.TrimSpace(name)
		if !ok || field == "" {
			return Columns{}, fmt.Errorf("column mapping %q is not of the form field=column", part)
		}
		i := slices.IndexFunc(fields, func(f columnField) bool { return f.field == field })
		switch {
		case i < 0:
			return Columns{}, fmt.Errorf("column mapping %q names no field; the fields are %s", part, fieldNames(fields))
		case seen[i]:
			return Columns{}, fmt.Errorf("column mapping names the field %q twice", field)
		case name == "" && i < neededFields:
			return Columns{}, fmt.Errorf("column mapping %q leaves out a field that every event needs", part)
		case len(name) > maxIdentifier:
			return Columns{}, fmt.Errorf("column name for field %q is longer than the %d bytes Postgres allows", field, maxIdentifier)
		case strings.IndexByte(name, 0) >= 0:
			return Columns{}, fmt.Errorf("column name for field %q holds a zero byte", field)
		}
		seen[i] = true
		*fields[i].name = name
	}
	return c, nil
}

// String returns the mapping in the form that ParseColumns reads, only where
// it differs from the default.
func (c Columns) String() string {
	var parts []string
	for _, f := range c.fields() {
		if *f.name != f.field {
			parts = append(parts, f.field+"="+*f.name)
		}
	}
	return strings.Join(parts, ",")
}

// Names returns the names of the columns that are read, in the order of the
// fields. Optional ones may be absent from the table.
func (c Columns) Names() []string {
	var names []string
	for _, f := range c.fields() {
		if *f.name != "" {
			names = append(names, *f.name)
		}
	}
	return names
}

// check refuses a mapping that was not made by ParseColumns and leaves out a
// needed name.
func (c *Columns) check() error {
	for _, f := range c.fields()[:neededFields] {
		if *f.name == "" {
			return fmt.Errorf("columns have no name for the field %q, which every event needs", f.field)
		}
	}
	return nil
}

func fieldNames(fields []columnField) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.field
	}
	return strings.Join(names, ", ")
}
