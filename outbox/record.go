package outbox

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// Record is one event: a row of the outbox table. The zero value of every
// field but ID, AggregateType, AggregateID and Type means "not given".
type Record struct {
	ID            string // [Append] fills it with a UUIDv7 if empty
	AggregateType string
	AggregateID   string
	Type          string
	Payload       []byte // nil is NULL, which is not the same as empty
	Binary        bool   // Payload belongs to the payload_bytes column
	Topic         string // "" is by template or default
	Key           string // "" is AggregateID
	Partition     Partition
	Headers       []Header
	ContentType   string // "" is by the payload's kind
	SchemaVersion string // decimal text
	TraceParent   string
	TraceState    string
	CreatedAt     time.Time // zero is unknown; Append leaves it to the table
}

// Partition is a partition that a record asks for. The zero value asks for
// none; make others with [PartitionOf].
type Partition int32

// PartitionOf asks for partition n. A negative n asks for none.
func PartitionOf(n int32) Partition {
	if n < 0 {
		return 0
	}
	// The complement maps 0..MaxInt32 onto the negative numbers, which
	// leaves zero free for "none" without losing a number at the top.
	return Partition(^n)
}

// Get returns the partition, and whether there is one.
func (p Partition) Get() (int32, bool) {
	if p >= 0 {
		return 0, false
	}
	return ^int32(p), true
}

// RecordError is a record that no table would take, found before any SQL ran.
type RecordError struct {
	Index  int    // position among the records given
	Field  string // field of Record
	Detail string // never holds a value of the record
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("outbox record %d: %s %s", e.Index, e.Field, e.Detail)
}

// check finds what can be known to be wrong without the database.
func (r *Record) check(i int) error {
	texts := [...]struct {
		field, value string
		needed       bool
	}{
		{"AggregateType", r.AggregateType, true},
		{"Type", r.Type, true},
		{"ID", r.ID, false},
		{"AggregateID", r.AggregateID, false},
		{"Topic", r.Topic, false},
		{"Key", r.Key, false},
		{"ContentType", r.ContentType, false},
		{"SchemaVersion", r.SchemaVersion, false},
		{"TraceParent", r.TraceParent, false},
		{"TraceState", r.TraceState, false},
	}
	for _, t := range texts {
		if t.needed && t.value == "" {
			return &RecordError{i, t.field, "is empty"}
		}
		if bad := textFault(t.value); bad != "" {
			return &RecordError{i, t.field, bad}
		}
	}
	if r.Partition > 0 {
		return &RecordError{i, "Partition", "was not made with PartitionOf"}
	}
	for j, h := range r.Headers {
		switch {
		case h.Key == "":
			return &RecordError{i, "Headers", "have an empty name"}
		case Reserved(h.Key):
			return &RecordError{i, "Headers", fmt.Sprintf("have the reserved name %q", h.Key)}
		}
		if bad := textFault(h.Key); bad != "" {
			return &RecordError{i, "Headers", "have a name that " + bad}
		}
		if bad := textFault(string(h.Value)); bad != "" {
			return &RecordError{i, "Headers", fmt.Sprintf("have a value under %q that %s", h.Key, bad)}
		}
		// The column is a jsonb object, which keeps the last of two equal
		// names: the other would be lost without a word.
		for _, other := range r.Headers[:j] {
			if other.Key == h.Key {
				return &RecordError{i, "Headers", fmt.Sprintf("have the name %q twice", h.Key)}
			}
		}
	}
	return nil
}

// textFault says why Postgres would refuse a text.
func textFault(s string) string {
	if !utf8.ValidString(s) {
		return "is not valid UTF-8"
	}
	for i := range len(s) {
		if s[i] == 0 {
			return "holds a zero byte"
		}
	}
	return ""
}
