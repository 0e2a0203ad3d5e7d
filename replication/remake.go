package replication

import (
	"context"
	"errors"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// DropSlotSQL drops the slot.
func (c Config) DropSlotSQL() string { return "SELECT pg_drop_replication_slot('" + c.Slot + "')" }

// DropSlot drops the slot. One that is held by a session is not dropped
// (SlotHeld).
func (s *Server) DropSlot(ctx context.Context) error {
	_, err := s.conn.Exec(ctx, s.cfg.DropSlotSQL())
	return classify(err, fault.Unclassified, "drop slot %s", s.cfg.Slot)
}

// Made is a slot that was just created, and the snapshot of the moment: what the
// snapshot shows was committed before the slot begins, and what it does not show
// the slot will send. The snapshot can be imported until Close.
type Made struct {
	At       pglogrepl.LSN
	Snapshot string
	conn     *pgconn.PgConn
}

// Close gives the snapshot up. The slot stays.
func (m *Made) Close() {
	if m.conn != nil {
		_ = m.conn.Close(context.Background())
	}
}

// CreateSlotCommand is the replication command that creates the slot and exports
// its snapshot, for a server of the given version (server_version_num).
func (c Config) CreateSlotCommand(version int) string {
	sql := "CREATE_REPLICATION_SLOT " + pgx.Identifier{c.Slot}.Sanitize() + " LOGICAL pgoutput "
	switch {
	case version >= 170000:
		return sql + "(SNAPSHOT 'export', FAILOVER)"
	case version >= 150000:
		return sql + "(SNAPSHOT 'export')"
	}
	return sql + "EXPORT_SNAPSHOT"
}

// MakeSlot creates the slot with its snapshot. It waits for every transaction
// that is running, without a word; ctx bounds that.
func (s *Server) MakeSlot(ctx context.Context) (*Made, error) {
	conn, err := s.dialReplication(ctx)
	if err != nil {
		return nil, err
	}
	m := &Made{conn: conn}
	if err := m.create(ctx, s.cfg.CreateSlotCommand(s.version)); err != nil {
		m.Close()
		return nil, classify(err, fault.Unclassified, "create slot %s", s.cfg.Slot)
	}
	return m, nil
}

// The answer has slot_name, consistent_point, snapshot_name and output_plugin.
func (m *Made) create(ctx context.Context, command string) error {
	results, err := m.conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 3 {
		return errors.New("the server's answer is not that of CREATE_REPLICATION_SLOT")
	}
	row := results[0].Rows[0]
	m.At, err = pglogrepl.ParseLSN(string(row[1]))
	m.Snapshot = string(row[2])
	return err
}

// TryLock is Lock, unless somebody has it; it does not wait.
func (s *Server) TryLock(ctx context.Context, name string) (bool, error) {
	var got bool
	err := s.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended($1, 0))`, "outbox-relay/"+name).Scan(&got)
	return got, classify(err, fault.Unclassified, "lock %s", name)
}
