package replication

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Identity is which history a server's LSNs belong to.
type Identity struct {
	SystemID string
	Timeline int32
	Database string
}

// Identify reads the identity over the plain connection. The timeline is that
// of the WAL being written: pg_control_checkpoint() lags behind a promotion.
func (s *Server) Identify(ctx context.Context) (Identity, error) {
	var id Identity
	err := s.conn.QueryRow(ctx, `SELECT (SELECT system_identifier FROM pg_control_system())::text,
	    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int, current_database()::text`).
		Scan(&id.SystemID, &id.Timeline, &id.Database)
	if err != nil {
		return Identity{}, classify(err, fault.Unclassified, "identify %s", s.describe())
	}
	return id, nil
}

// Slot reads the slot, and refuses one that cannot be streamed from: see the
// codes SlotMissing, SlotShape and SlotLost.
func (s *Server) Slot(ctx context.Context) (Slot, error) { return s.slot(ctx) }

// Check tells whether the server, the table and the publication are fit for
// streaming.
func (s *Server) Check(ctx context.Context) error {
	_, err := s.probe(ctx)
	return err
}

// CheckServer is the part of Check that needs nothing to exist: the server can
// decode, and the role may stream.
func (s *Server) CheckServer(ctx context.Context) error { return s.probeServer(ctx) }

// Columns returns the columns of the outbox table as it is now.
func (s *Server) Columns(ctx context.Context) ([]Column, error) {
	rows, err := s.conn.Query(ctx, `SELECT a.attname, a.atttypid FROM pg_attribute a
	    JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	   WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, s.cfg.Schema, s.cfg.Table)
	if err != nil {
		return nil, classify(err, fault.Unclassified, "read columns of %s", s.cfg.qualified())
	}
	cols, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Column, error) {
		var c Column
		err := row.Scan(&c.Name, &c.TypeOID)
		return c, err
	})
	return cols, classify(err, fault.Unclassified, "read columns of %s", s.cfg.qualified())
}

// Conn is the plain connection, for statements of the caller's own.
func (s *Server) Conn() *pgx.Conn { return s.conn }

// Version is the server's version as server_version_num has it.
func (s *Server) Version() int { return s.version }

// Describe names host, port and database.
func (s *Server) Describe() string { return s.describe() }

// CreatePublicationSQL creates the publication of exactly the outbox table.
// Only inserts: deletes and partition drops never reach the stream, so
// housekeeping of the table is free.
func (c Config) CreatePublicationSQL() string {
	return "CREATE PUBLICATION " + pgx.Identifier{c.Publication}.Sanitize() + " FOR TABLE " + c.qualified() +
		" WITH (publish = 'insert', publish_via_partition_root = true)"
}

// CreateSlotSQL creates the slot. On Postgres 17 and newer it is a failover
// slot, which a standby keeps in step.
func (c Config) CreateSlotSQL(version int) string {
	sql := "SELECT lsn::text FROM pg_create_logical_replication_slot('" + c.Slot + "', 'pgoutput', false, false"
	if version >= 170000 {
		sql += ", true"
	}
	return sql + ")"
}

// PublicationExists tells whether there is a publication of the name.
func (s *Server) PublicationExists(ctx context.Context) (bool, error) {
	var ok bool
	err := s.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)`, s.cfg.Publication).Scan(&ok)
	return ok, classify(err, fault.Unclassified, "read publication %s", s.cfg.Publication)
}

// Exec runs a statement that changes the schema. A right that is missing gets
// its own code, with the statement for somebody who has it.
func (s *Server) Exec(ctx context.Context, sql string) error {
	_, err := s.conn.Exec(ctx, sql)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return fault.Wrap(err, fault.NoRight, "%s", firstLine(sql)).WithFix("have the owner run: %s;", sql)
	}
	return classify(err, fault.Unclassified, "%s", firstLine(sql))
}

func firstLine(sql string) string {
	line, _, _ := strings.Cut(sql, "\n")
	return line
}

// CreateSlot creates the slot and returns its consistent point: the first
// transaction that it will send commits behind it.
//
// Creating waits for every transaction that is running, without a word. The
// caller's context bounds that.
func (s *Server) CreateSlot(ctx context.Context) (pglogrepl.LSN, error) {
	var text string
	err := s.conn.QueryRow(ctx, s.cfg.CreateSlotSQL(s.version)).Scan(&text)
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "42501" {
			return 0, fault.Wrap(err, fault.NoReplicationRole, "create slot %s", s.cfg.Slot).
				WithFix("ALTER ROLE %s WITH REPLICATION, or set OUTBOX_ADMIN_URL", pgx.Identifier{s.host.User}.Sanitize())
		}
		return 0, classify(err, fault.Unclassified, "create slot %s", s.cfg.Slot)
	}
	lsn, err := pglogrepl.ParseLSN(text)
	if err != nil {
		return 0, fault.Wrap(err, fault.Unclassified, "create slot %s", s.cfg.Slot)
	}
	return lsn, nil
}

// Lock takes a lock of the given name for the life of the connection, so that
// two replicas do not initialise at the same time.
func (s *Server) Lock(ctx context.Context, name string) error {
	_, err := s.conn.Exec(ctx, `SELECT pg_advisory_lock(hashtextextended($1, 0))`, "outbox-relay/"+name)
	return classify(err, fault.Unclassified, "lock %s", name)
}
