package outbox

import "fmt"

// Reasons of a RowError. They are the reasons of a dead letter as well.
const (
	ReasonDecode         = "decode"
	ReasonPartitionRange = "partition_range"
)

// RowError is a row that can be no record. The record is filled as far as the
// other columns could be read, so that a dead letter can keep them.
type RowError struct {
	Reason string
	Column string // name of the column as the table has it; "" if it is the row itself
	Detail string // never holds data of the row
}

func (e *RowError) Error() string {
	if e.Column == "" {
		return "row " + e.Detail
	}
	return fmt.Sprintf("column %q %s", e.Column, e.Detail)
}

// MissingColumnError is a table without a column that is needed, or without
// one that the mapping names.
type MissingColumnError struct {
	Field  string // field of the mapping
	Column string // name looked for
}

func (e *MissingColumnError) Error() string {
	return fmt.Sprintf("no column %q for the field %q", e.Column, e.Field)
}

// ColumnTypeError is a column whose type can hold no value of its field. It
// concerns the table, not a row: every row would fail.
type ColumnTypeError struct {
	Field   string
	Column  string
	TypeOID uint32
	Want    string // types that would do
}

func (e *ColumnTypeError) Error() string {
	return fmt.Sprintf("column %q for the field %q has a type (oid %d) that is not %s", e.Column, e.Field, e.TypeOID, e.Want)
}
