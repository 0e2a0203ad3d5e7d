package replication

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Ahead is what a slot would send next.
type Ahead struct {
	Changes int  // messages that were looked at
	Rows    int  // inserts into the outbox table among them
	More    bool // there is more than was looked at
}

// Peek decodes what the slot would send, up to about limit messages, and leaves
// the slot where it is. It fails with PublicationHole where the publication did
// not exist when that WAL was written, and with SlotHeld while somebody streams
// from the slot.
func (s *Server) Peek(ctx context.Context, limit int) (Ahead, error) {
	s.skipped = nil
	rows, err := s.conn.Query(ctx, `SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, $2, 'proto_version', '1', 'publication_names', $3)`,
		s.cfg.Slot, limit, pgx.Identifier{s.cfg.Publication}.Sanitize())
	if err != nil {
		return Ahead{}, classify(err, fault.PublicationHole, "decode from slot %s", s.cfg.Slot)
	}
	var a Ahead
	outboxes := map[uint32]bool{}
	var data pgtype.DriverBytes // the connection's own memory, until the next row
	var m Message
	_, err = pgx.ForEachRow(rows, []any{&data}, func() error {
		a.Changes++
		if err := Decode(data, &m); err != nil {
			return err
		}
		switch m.Kind {
		case KindRelation:
			outboxes[m.Relation.ID] = m.Relation.Schema == s.cfg.Schema && m.Relation.Name == s.cfg.Table
		case KindInsert:
			if outboxes[m.RelationID] {
				a.Rows++
			}
		}
		return nil
	})
	if err == nil && s.skipped != nil {
		return Ahead{}, fault.Wrap(s.skipped, fault.PublicationHole, "decode from slot %s", s.cfg.Slot)
	}
	// A transaction is not cut: what was looked at may be more than asked for.
	a.More = a.Changes >= limit
	return a, classify(err, fault.PublicationHole, "decode from slot %s", s.cfg.Slot)
}
