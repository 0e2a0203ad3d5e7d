package outbox

import (
	"slices"
	"unsafe"
)

// Column is a column of the table as the stream describes it.
type Column struct {
	Name    string
	TypeOID uint32
}

// Object ids of the built-in types that decide how a value is read.
const (
	oidBytea       = 17
	oidInt8        = 20
	oidInt2        = 21
	oidInt4        = 23
	oidText        = 25
	oidJSON        = 114
	oidBpchar      = 1042
	oidVarchar     = 1043
	oidTimestamp   = 1114
	oidTimestamptz = 1184
	oidJSONB       = 3802

	// firstUserOID is where types made by users begin, domains among them.
	// What such a type holds is not known here, so its values decide.
	firstUserOID = 16384
)

// Media types of a payload whose row does not name one.
const (
	ContentJSON  = "application/json"
	ContentText  = "text/plain"
	ContentBytes = "application/octet-stream"
)

// source is where a field is read from. A field without a column has index -1.
type source struct {
	index int
	oid   uint32
	name  string
}

// Decoder turns rows of one relation shape into records. It is for one
// goroutine at a time.
type Decoder struct {
	id, aggregateType, aggregateID, typ   source
	payload, payloadBytes                 source
	headers, topic, messageKey, partition source
	contentType, schemaVersion            source
	traceParent, traceState, createdAt    source
	spanContext                           source
	width                                 int // columns of the table
	payloadType                           string
	bytes                                 arena
	slab                                  []Header
}

// NewDecoder resolves the names against a table's columns, once per relation
// shape. The error is a *MissingColumnError or a *ColumnTypeError.
func NewDecoder(cols Columns, table []Column) (*Decoder, error) {
	if err := cols.check(); err != nil {
		return nil, err
	}
	d := &Decoder{width: len(table)}
	into := []*source{
		&d.id, &d.aggregateType, &d.aggregateID, &d.typ, &d.payload,
		&d.payloadBytes, &d.headers, &d.topic, &d.messageKey, &d.partition,
		&d.contentType, &d.schemaVersion, &d.traceParent, &d.traceState, &d.createdAt,
		&d.spanContext,
	}
	for i, f := range cols.fields() {
		*into[i] = source{index: -1, name: *f.name}
		if *f.name == "" {
			continue
		}
		at := slices.IndexFunc(table, func(c Column) bool { return c.Name == *f.name })
		if at < 0 {
			// An optional column may be absent under its default name. A
			// name that somebody wrote down and that is not there is a typing
			// mistake, and would lose what the rows say.
			if i < neededFields || *f.name != f.field {
				return nil, &MissingColumnError{Field: f.field, Column: *f.name}
			}
			continue
		}
		into[i].index, into[i].oid = at, table[at].TypeOID
	}
	for _, want := range []struct {
		field string
		src   source
		oids  []uint32
		types string
	}{
		{"headers", d.headers, []uint32{oidJSONB, oidJSON, oidText, oidVarchar}, "jsonb, json, text or varchar"},
		{"kafka_partition", d.partition, []uint32{oidInt4, oidInt2, oidInt8}, "integer, smallint or bigint"},
		{"created_at", d.createdAt, []uint32{oidTimestamptz, oidTimestamp}, "timestamptz or timestamp"},
	} {
		if want.src.index >= 0 && want.src.oid < firstUserOID && !slices.Contains(want.oids, want.src.oid) {
			return nil, &ColumnTypeError{Field: want.field, Column: want.src.name, TypeOID: want.src.oid, Want: want.types}
		}
	}
	switch d.payload.oid {
	case oidJSON, oidJSONB:
		d.payloadType = ContentJSON
	case oidBytea:
		d.payloadType = ContentBytes
	default:
		d.payloadType = ContentText
	}
	return d, nil
}

// Decode reads one row, whose values are in Postgres' text format and in the
// order of the table's columns; a nil value is NULL. The record's strings, its
// payload and its header values alias the values' memory, which the caller
// must neither change nor use again while the record lives.
//
// The error is a *RowError. The record is filled as far as the row could be
// read even then.
func (d *Decoder) Decode(values [][]byte, rec *Record) error {
	*rec = Record{}
	if len(values) != d.width {
		return &RowError{Reason: ReasonDecode, Detail: "has another number of columns than its table"}
	}
	// The first fault is the one reported; the rest of the row is read all
	// the same.
	var fault *RowError
	rec.ID = d.needed(values, &d.id, &fault)
	if rec.ID == "" && fault == nil {
		fault = &RowError{ReasonDecode, d.id.name, "is empty"}
	}
	rec.AggregateType = d.needed(values, &d.aggregateType, &fault)
	rec.AggregateID = d.needed(values, &d.aggregateID, &fault)
	rec.Type = d.needed(values, &d.typ, &fault)
	rec.Topic = optional(values, &d.topic)
	rec.Key = optional(values, &d.messageKey)
	rec.ContentType = optional(values, &d.contentType)
	rec.SchemaVersion = optional(values, &d.schemaVersion)
	rec.TraceParent = optional(values, &d.traceParent)
	rec.TraceState = optional(values, &d.traceState)
	if rec.TraceParent == "" {
		if v := value(values, &d.spanContext); len(v) > 0 {
			rec.TraceParent, rec.TraceState = spanContext(text(v))
		}
	}
	if f := d.decodePayload(values, rec); f != nil && fault == nil {
		fault = f
	}
	if d.headers.index >= 0 {
		// Nearly every row has none, and says so in the same two bytes.
		if v := values[d.headers.index]; len(v) > 0 && string(v) != "{}" {
			var bad string
			if rec.Headers, bad = d.decodeHeaders(v); bad != "" && fault == nil {
				fault = &RowError{ReasonDecode, d.headers.name, bad}
			}
		}
	}
	if v := value(values, &d.partition); len(v) > 0 {
		n, ok := parsePartition(v)
		if !ok && fault == nil {
			fault = &RowError{ReasonPartitionRange, d.partition.name, "is not a partition number"}
		}
		if ok {
			rec.Partition = PartitionOf(n)
		}
	}
	if v := value(values, &d.createdAt); len(v) > 0 {
		at, ok := parseTimestamp(v)
		if !ok && fault == nil {
			fault = &RowError{ReasonDecode, d.createdAt.name, "is not a point in time between the years 1 and 9999"}
		}
		rec.CreatedAt = at
	}
	if fault != nil {
		return fault
	}
	return nil
}

// decodePayload takes payload, or payload_bytes where that is NULL.
func (d *Decoder) decodePayload(values [][]byte, rec *Record) *RowError {
	src, kind := &d.payload, d.payloadType
	v := values[src.index]
	if v == nil {
		if b := value(values, &d.payloadBytes); b != nil {
			src, v, kind, rec.Binary = &d.payloadBytes, b, ContentBytes, true
		}
	}
	if v == nil && kind != ContentJSON {
		kind = "" // what stands for NULL is the relay's to say
	}
	if rec.ContentType == "" {
		rec.ContentType = kind
	}
	if v == nil || src.oid != oidBytea {
		rec.Payload = v
		return nil
	}
	b, ok := d.bytes.bytea(v)
	rec.Payload = b
	if !ok {
		return &RowError{ReasonDecode, src.name, "is not the text form of a bytea"}
	}
	return nil
}

func (d *Decoder) needed(values [][]byte, src *source, fault **RowError) string {
	v := values[src.index]
	if v == nil && *fault == nil {
		*fault = &RowError{ReasonDecode, src.name, "is NULL"}
	}
	return text(v)
}

func optional(values [][]byte, src *source) string { return text(value(values, src)) }

func value(values [][]byte, src *source) []byte {
	if src.index < 0 {
		return nil
	}
	return values[src.index]
}

// text views bytes as a string without a copy. That is sound only because
// Decode's caller promises never to write to a row's memory again.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
