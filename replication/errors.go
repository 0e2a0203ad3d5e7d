package replication

import (
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// bySQLState maps what Postgres says to what it means for a relay. Source:
// https://www.postgresql.org/docs/current/errcodes-appendix.html
var bySQLState = map[string]*fault.Code{
	"28000": fault.PostgresAuth,        // invalid_authorization_specification: pg_hba.conf
	"28P01": fault.PostgresAuth,        // invalid_password
	"3D000": fault.DatabaseMissing,     // invalid_catalog_name
	"42501": fault.NoReplicationRole,   // insufficient_privilege
	"53300": fault.PostgresUnreachable, // too_many_connections: somebody will leave
	"53400": fault.SlotsExhausted,      // configuration_limit_exceeded
	"55000": fault.SlotLost,            // object_not_in_prerequisite_state
	"55006": fault.SlotHeld,            // object_in_use
	"55P03": fault.PostgresUnreachable, // lock_not_available: lock_timeout of the role
	"57014": fault.PostgresUnreachable, // query_canceled: statement_timeout of the role
	"57P01": fault.PostgresStopping,    // admin_shutdown
	"57P02": fault.PostgresStopping,    // crash_shutdown
	"57P03": fault.PostgresStopping,    // cannot_connect_now
	"57P05": fault.PostgresLost,        // idle_session_timeout
	"58P01": fault.SlotLost,            // undefined_file: WAL segment removed
}

// classify gives an error of the server or of the network its code. missing is
// the code for "undefined object" (42704), which alone depends on what was
// asked for: the slot, or the publication.
func classify(err error, missing *fault.Code, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		code := bySQLState[pg.Code]
		switch {
		case pg.Code == "42704":
			code = missing
		case code == nil && strings.HasPrefix(pg.Code, "08"):
			code = fault.PostgresLost
		case code == nil && (strings.HasPrefix(pg.Code, "53") || strings.HasPrefix(pg.Code, "58")):
			code = fault.PostgresUnreachable // out of memory, disk full, I/O: the server's own trouble
		case code == nil:
			code = fault.Unclassified
		}
		return fault.Wrap(err, code, format, args...)
	}
	var tooLong *pgproto3.ExceededMaxBodyLenErr
	if errors.As(err, &tooLong) {
		return fault.Wrap(err, fault.RowUnreadable, format, args...)
	}
	var netErr net.Error
	if errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || pgconn.Timeout(err) {
		return fault.Wrap(err, fault.PostgresLost, format, args...)
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return fault.Wrap(err, fault.PostgresUnreachable, format, args...)
	}
	return fault.Wrap(err, fault.PostgresLost, format, args...)
}

// Classify gives an error of the server or of the network its code, for
// statements of a caller's own; it keeps a code that the error has.
func Classify(err error, format string, args ...any) error {
	return classify(err, fault.Unclassified, format, args...)
}
