package audit

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
)

const (
	// The copy is temporary: it is gone with the connection, whatever happens.
	copySlot = `SELECT pg_copy_logical_replication_slot($1, $2, true)`
	dropSlot = `SELECT pg_drop_replication_slot($1)`
	peek     = `SELECT data FROM pg_logical_slot_peek_binary_changes($1, $2::pg_lsn, NULL, 'proto_version', '1', 'publication_names', $3)`
)

// pending notes the rows that commit between the checkpoint and the snapshot:
// they are still to come, so not to find them proves nothing. The WAL alone knows
// when a row was committed. Where it cannot be read, every row that is not found
// is in doubt, and the report says why.
func (a *audit) pending(ctx context.Context, at checkpoint.Position) error {
	copied := fmt.Sprintf("outbox_audit_%d", os.Getpid())
	if _, err := a.cfg.Conn.Exec(ctx, copySlot, a.cfg.Slot, copied); err != nil {
		return a.doubt(ctx, err)
	}
	defer func() {
		// If this fails the end of the connection does it.
		_, _ = a.cfg.Conn.Exec(context.WithoutCancel(ctx), dropSlot, copied)
	}()
	rows, err := a.cfg.Conn.Query(ctx, peek, copied, a.snapshot.String(), pgx.Identifier{a.cfg.Publication}.Sanitize())
	if err != nil {
		return a.doubt(ctx, err)
	}
	b := backlog{a: a, from: at, shapes: map[uint32]*outbox.Decoder{}}
	var data []byte
	if _, err := pgx.ForEachRow(rows, []any{&data}, func() error { return b.take(data) }); err != nil {
		return a.doubt(ctx, err)
	}
	return nil
}

func (a *audit) doubt(ctx context.Context, err error) error {
	var ours *fault.Error
	if errors.As(err, &ours) || ctx.Err() != nil {
		return err
	}
	a.undecided = true
	a.report.Undecidable = "read the WAL behind the checkpoint: " + err.Error()
	return nil
}

// backlog reads what a slot would send, behind a position.
type backlog struct {
	a      *audit
	from   checkpoint.Position
	shapes map[uint32]*outbox.Decoder // of the outbox table
	msg    replication.Message
	rec    outbox.Record
	owed   bool // the transaction is the relay's to publish
	cut    bool // but for its first changes
	ord    uint64
}

func (b *backlog) take(data []byte) error {
	m := &b.msg
	if err := replication.Decode(data, m); err != nil {
		return fault.Wrap(err, fault.WALDecode, "read the WAL behind the checkpoint")
	}
	switch m.Kind {
	case replication.KindBegin:
		// The relay's own rule: drop what commits before the checkpoint's end.
		b.owed, b.ord = m.CommitLSN >= b.from.EndLSN, 0
		b.cut = b.from.Cut() && m.CommitLSN == b.from.CommitLSN
	case replication.KindRelation:
		return b.describe(m.Relation)
	case replication.KindInsert:
		b.ord++
		return b.insert(m)
	case replication.KindUpdate, replication.KindDelete, replication.KindTruncate:
		b.ord++
	}
	return nil
}

func (b *backlog) describe(r *replication.Relation) error {
	delete(b.shapes, r.ID)
	if t := b.a.cfg.Table; r.Name != t.Name || t.Schema != "" && r.Schema != t.Schema {
		return nil
	}
	cols := make([]outbox.Column, len(r.Columns))
	for i, c := range r.Columns {
		cols[i] = outbox.Column{Name: c.Name, TypeOID: c.TypeOID}
	}
	d, err := outbox.NewDecoder(b.a.cfg.Columns, cols)
	if err != nil {
		return fault.Wrap(err, fault.ColumnMissing, "table %s", b.a.cfg.Table)
	}
	b.shapes[r.ID] = d
	return nil
}

func (b *backlog) insert(m *replication.Message) error {
	d := b.shapes[m.RelationID]
	if d == nil || !b.owed || b.cut && b.ord <= b.from.Ordinal {
		return nil
	}
	// A row that can be no record is owed as a letter; its id is read all the
	// same.
	_ = d.Decode(m.Values, &b.rec)
	if err := b.a.store.add(&entry{kind: kindPending, id: b.rec.ID}); err != nil {
		return fault.Wrap(err, fault.Runtime, "write a temporary file")
	}
	return nil
}
