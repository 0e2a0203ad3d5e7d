package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Execer runs one statement. pgx.Tx, *pgx.Conn and *pgxpool.Pool have it; only
// with a transaction does an event share the fate of what it tells of.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Append writes records into outbox.events inside the caller's transaction.
// See [Writer.Append].
func Append(ctx context.Context, tx Execer, recs ...Record) error {
	return defaultWriter().Append(ctx, tx, recs...)
}

func defaultWriter() *Writer {
	return &Writer{table: Table{Schema: "outbox", Name: "events"}.SQL(), cols: DefaultColumns()}
}

// maxParameters is how many parameters one statement can have in the wire
// protocol.
const maxParameters = 65535

// Writer appends records to one table. It holds no connection and no state,
// and is safe for concurrent use.
type Writer struct {
	table string // quoted
	cols  Columns
}

// NewWriter returns a writer for a table, named as [ParseTable] reads it.
func NewWriter(table string, cols Columns) (*Writer, error) {
	t, err := ParseTable(table)
	if err != nil {
		return nil, err
	}
	if err := cols.check(); err != nil {
		return nil, err
	}
	return &Writer{table: t.SQL(), cols: cols}, nil
}

// Append writes records, in order, inside the caller's transaction: one
// statement, or as few as the limit on parameters allows. It names only the
// columns that a record has a value for, so a table with the five needed
// columns takes records that fill no more. A nil Payload is NULL.
//
// An empty ID is replaced by a new UUIDv7. That happens in recs itself, so a
// caller who passes a slice (recs...) finds the ids there afterwards, and
// writes the same ids when it runs a failed transaction again.
//
// A record that no table would take is a *RecordError; nothing was sent then.
// Any other error is Postgres' own, and the transaction has failed.
func (w *Writer) Append(ctx context.Context, tx Execer, recs ...Record) error {
	return w.append(recs, func(statement string, args []any) error {
		_, err := tx.Exec(ctx, statement, args...)
		return err
	})
}

// append fills, checks and cuts up the records for whichever driver there is.
func (w *Writer) append(recs []Record, exec func(statement string, args []any) error) error {
	if len(recs) == 0 {
		return nil
	}
	var used fieldSet
	for i := range recs {
		if recs[i].ID == "" {
			id, err := uuid.NewV7()
			if err != nil {
				return fmt.Errorf("make an event id: %w", err)
			}
			recs[i].ID = id.String()
		}
		if err := recs[i].check(i); err != nil {
			return err
		}
		used |= recs[i].given()
	}
	columns, err := w.columns(used)
	if err != nil {
		return err
	}
	for chunk := maxParameters / len(columns); len(recs) > 0; {
		n := min(chunk, len(recs))
		sql, args, err := w.insert(columns, recs[:n])
		if err != nil {
			return err
		}
		if err := exec(sql, args); err != nil {
			return fmt.Errorf("insert %d outbox records: %w", n, err)
		}
		recs = recs[n:]
	}
	return nil
}

// fieldSet has bit i set for the field at place i of Columns.fields.
type fieldSet uint16

const (
	fieldID fieldSet = 1 << iota
	fieldAggregateType
	fieldAggregateID
	fieldType
	fieldPayload
	fieldPayloadBytes
	fieldHeaders
	fieldTopic
	fieldMessageKey
	fieldPartition
	fieldContentType
	fieldSchemaVersion
	fieldTraceParent
	fieldTraceState
	fieldCreatedAt
)

const alwaysGiven = fieldID | fieldAggregateType | fieldAggregateID | fieldType

// given tells which columns a record has a value for. The payload column
// belongs to every record that does not fill payload_bytes: its NULL means
// something.
func (r *Record) given() fieldSet {
	set := alwaysGiven
	for _, f := range [...]struct {
		bit fieldSet
		ok  bool
	}{
		{fieldPayload, !r.Binary || r.Payload == nil},
		{fieldPayloadBytes, r.Binary && r.Payload != nil},
		{fieldHeaders, len(r.Headers) > 0},
		{fieldTopic, r.Topic != ""},
		{fieldMessageKey, r.Key != ""},
		{fieldPartition, r.Partition != 0},
		{fieldContentType, r.ContentType != ""},
		{fieldSchemaVersion, r.SchemaVersion != ""},
		{fieldTraceParent, r.TraceParent != ""},
		{fieldTraceState, r.TraceState != ""},
		{fieldCreatedAt, !r.CreatedAt.IsZero()},
	} {
		if f.ok {
			set |= f.bit
		}
	}
	return set
}

type writeColumn struct {
	bit  fieldSet
	name string
}

// columns returns what to name in the statement. Two fields may share a
// column (a bytea payload serves as payload_bytes too) unless both are used.
func (w *Writer) columns(used fieldSet) ([]writeColumn, error) {
	var columns []writeColumn
	for i, f := range w.cols.fields() {
		bit := fieldSet(1) << i
		if used&bit == 0 {
			continue
		}
		if *f.name == "" {
			return nil, fmt.Errorf("outbox table has no column for the field %q, which a record fills", f.field)
		}
		for _, c := range columns {
			if c.name == *f.name {
				return nil, fmt.Errorf("column %q is mapped to two fields that the records fill", c.name)
			}
		}
		columns = append(columns, writeColumn{bit, *f.name})
	}
	return columns, nil
}

// insert builds one statement. A cell that its record does not give is left to
// the column's default: NULL would break the NOT NULL of headers and
// created_at.
func (w *Writer) insert(columns []writeColumn, recs []Record) (string, []any, error) {
	var sql strings.Builder
	args := make([]any, 0, len(columns)*len(recs))
	sql.WriteString("INSERT INTO ")
	sql.WriteString(w.table)
	sql.WriteString(" (")
	for i, c := range columns {
		if i > 0 {
			sql.WriteString(", ")
		}
		sql.WriteString(pgx.Identifier{c.name}.Sanitize())
	}
	sql.WriteString(") VALUES ")
	for r := range recs {
		if r > 0 {
			sql.WriteString(", ")
		}
		sql.WriteByte('(')
		given := recs[r].given()
		for i, c := range columns {
			if i > 0 {
				sql.WriteString(", ")
			}
			if given&c.bit == 0 {
				sql.WriteString("DEFAULT")
				continue
			}
			arg, err := recs[r].argument(c.bit)
			if err != nil {
				return "", nil, err
			}
			args = append(args, arg)
			sql.WriteByte('$')
			sql.WriteString(strconv.Itoa(len(args)))
		}
		sql.WriteByte(')')
	}
	return sql.String(), args, nil
}

// argument returns a field for a driver. Texts go as strings, which drivers
// send as text whatever the column's type is; the payload too, because bytes
// would become a bytea literal in pgx's simple protocol and in lib/pq.
func (r *Record) argument(field fieldSet) (any, error) {
	switch field {
	case fieldID:
		return r.ID, nil
	case fieldAggregateType:
		return r.AggregateType, nil
	case fieldAggregateID:
		return r.AggregateID, nil
	case fieldType:
		return r.Type, nil
	case fieldPayload:
		if r.Payload == nil {
			return nil, nil
		}
		return string(r.Payload), nil
	case fieldPayloadBytes:
		return r.Payload, nil
	case fieldHeaders:
		return headersJSON(r.Headers)
	case fieldTopic:
		return r.Topic, nil
	case fieldMessageKey:
		return r.Key, nil
	case fieldPartition:
		n, _ := r.Partition.Get()
		return n, nil
	case fieldContentType:
		return r.ContentType, nil
	case fieldSchemaVersion:
		return r.SchemaVersion, nil
	case fieldTraceParent:
		return r.TraceParent, nil
	case fieldTraceState:
		return r.TraceState, nil
	case fieldCreatedAt:
		return r.CreatedAt, nil
	}
	return nil, fmt.Errorf("field %b of a record has no column", field)
}

// headersJSON writes the object by hand to keep the order of the headers.
func headersJSON(headers []Header) (string, error) {
	var b strings.Builder
	for i, h := range headers {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		name, err := json.Marshal(h.Key)
		if err != nil {
			return "", fmt.Errorf("write a header name as JSON: %w", err)
		}
		value, err := json.Marshal(string(h.Value))
		if err != nil {
			return "", fmt.Errorf("write a header value as JSON: %w", err)
		}
		b.WriteByte(sep)
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.String(), nil
}
