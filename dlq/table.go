package dlq

import (
	"bytes"
	"cmp"
	"context"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// Table is the outbox table, which still has what a letter had no room for.
type Table struct {
	Columns    outbox.Columns
	Tombstones bool // of the relay: what stands for a payload that is NULL
	// Rows returns the rows with an id, with their values in text format, and
	// the columns of the table.
	Rows func(ctx context.Context, id string) ([]outbox.Column, [][][]byte, error)
}

// rebuild makes a letter whole from its row. The row has to be the one that
// the letter was made of, unless asItIs: then it counts as it is now, also
// where it asks for another topic, key or partition than it did.
func (t *Table) rebuild(ctx context.Context, l *Letter, asItIs bool) (*Letter, error) {
	if t == nil {
		return nil, fault.New(fault.LetterOmitted, "letter %.100q", l.ID()).
			WithFix("DATABASE_URL=... outbox-relay dlq replay, which takes the record from the table")
	}
	if l.ID() == "" {
		return nil, fault.New(fault.LetterRowGone, "the letter has no id to look for")
	}
	columns, rows, err := t.Rows(ctx, l.ID())
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, fault.New(fault.LetterRowGone, "no row with id %.100q", l.ID())
	}
	dec, err := outbox.NewDecoder(t.Columns, columns)
	if err != nil {
		return nil, fault.Wrap(err, fault.ColumnMissing, "read the row of letter %.100q", l.ID())
	}
	for _, row := range rows {
		var rec outbox.Record
		if err := dec.Decode(row, &rec); err != nil {
			if asItIs {
				return nil, fault.Wrap(err, fault.RowDecode, "row of letter %.100q", l.ID())
			}
			continue
		}
		whole := t.whole(l, &rec)
		if asItIs {
			if rec.Topic != "" {
				whole.Topic = rec.Topic
			}
			whole.Partition = rec.Partition
			return whole, nil
		}
		if l.Omitted.Key && hash(whole.Key) != l.Omitted.KeySHA256 || !l.Omitted.Key && !bytes.Equal(whole.Key, l.Key) {
			continue
		}
		if l.Omitted.Payload && hash(whole.Value) == l.Omitted.PayloadSHA256 {
			return whole, nil
		}
		if !l.Omitted.Payload {
			whole.Value = l.Value
			return whole, nil
		}
	}
	return nil, fault.New(fault.LetterRowChanged, "letter %.100q", l.ID()).
		WithFix("outbox-relay dlq replay --from-table %.100s sends the row as it is now", l.ID())
}

// whole is a letter with the parts of its row, and of its own what says where
// the row stood. The headers are in the order in which the relay writes them.
func (t *Table) whole(l *Letter, rec *outbox.Record) *Letter {
	w := *l
	w.Omitted = Omitted{}
	w.Key, w.Value = []byte(rec.Key), rec.Payload
	if rec.Key == "" {
		w.Key = []byte(rec.AggregateID)
	}
	if w.Value == nil && !t.Tombstones {
		w.Value = []byte("null")
	}
	w.Headers = nil
	add := func(name, value string) {
		w.Headers = append(w.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	add(outbox.HeaderID, rec.ID)
	add(outbox.HeaderType, rec.Type)
	add(outbox.HeaderAggregateType, rec.AggregateType)
	add(outbox.HeaderAggregateID, rec.AggregateID)
	add(outbox.HeaderContentType, cmp.Or(rec.ContentType, outbox.ContentJSON))
	for _, h := range [...]struct{ name, value string }{
		{outbox.HeaderSchemaVersion, rec.SchemaVersion}, {outbox.HeaderTraceParent, rec.TraceParent}, {outbox.HeaderTraceState, rec.TraceState},
	} {
		if h.value != "" {
			add(h.name, h.value)
		}
	}
	for _, h := range rec.Headers {
		name := h.Key
		if outbox.Reserved(name) || name == "" {
			name = outbox.RejectedPrefix + name
		}
		w.Headers = append(w.Headers, kgo.RecordHeader{Key: name, Value: bytes.Clone(h.Value)})
	}
	for _, h := range l.Headers {
		if strings.HasPrefix(h.Key, outbox.ReservedPrefix) && !strings.HasPrefix(h.Key, outbox.RejectedPrefix) {
			w.Headers = append(w.Headers, h)
		}
	}
	return &w
}
