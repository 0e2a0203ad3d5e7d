package slots

import (
	"strings"

	"github.com/jackc/pglogrepl"
)

// quote writes a text as an SQL literal, so that what is printed can be pasted
// into psql as it stands.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// ListSQL shows every logical slot of the server.
const ListSQL = `SELECT slot_name, plugin, database, active, active_pid, wal_status, safe_wal_size, restart_lsn, confirmed_flush_lsn,
       pg_current_wal_lsn() - restart_lsn AS retained_bytes, pg_current_wal_lsn() - confirmed_flush_lsn AS lag_bytes
  FROM pg_replication_slots WHERE slot_type = 'logical' ORDER BY slot_name`

// InspectSQL shows one slot.
func InspectSQL(slot string) string {
	return `SELECT *, pg_current_wal_lsn(), pg_current_wal_lsn() - restart_lsn AS retained_bytes, pg_current_wal_lsn() - confirmed_flush_lsn AS lag_bytes
  FROM pg_replication_slots WHERE slot_name = ` + quote(slot)
}

// HolderSQL shows who streams from a slot.
func HolderSQL(slot string) string {
	return `SELECT a.pid, a.application_name, a.client_addr, a.backend_start
  FROM pg_stat_activity a JOIN pg_replication_slots s ON s.active_pid = a.pid WHERE s.slot_name = ` + quote(slot)
}

// LimitSQL shows after how much WAL Postgres gives a slot up, and how much it
// has written so far.
const LimitSQL = `SELECT (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_mib,
       wal_bytes, extract(epoch FROM now() - stats_reset) AS seconds FROM pg_stat_wal`

// AdvanceSQL moves a slot. With a position that it was seen at, it moves only
// from there.
func AdvanceSQL(slot string, to string, from pglogrepl.LSN) string {
	return "SELECT a.end_lsn::text FROM pg_replication_slots s, pg_replication_slot_advance(s.slot_name, " + quote(to) + ") a\n" +
		"  WHERE s.slot_name = " + quote(slot) + " AND NOT s.active" + still("s.", from)
}

// DropSQL drops a slot. With a position that it was seen at, it is dropped only
// if it is still there.
func DropSQL(slot string, from pglogrepl.LSN) string {
	return "SELECT pg_drop_replication_slot(slot_name)::text FROM pg_replication_slots\n" +
		"  WHERE slot_name = " + quote(slot) + " AND NOT active" + still("", from)
}

func still(alias string, from pglogrepl.LSN) string {
	if from == 0 {
		return ""
	}
	return " AND " + alias + "confirmed_flush_lsn = " + quote(from.String())
}

// PeekSQL counts what a slot would send next, without taking it from the slot.
// Kind 73 is an insert, 67 the commit, whose lsn is where its transaction ends.
func PeekSQL(slot, publication string) string {
	return "SELECT lsn::text, get_byte(data, 0) AS kind FROM pg_logical_slot_peek_binary_changes(" + quote(slot) + ", NULL, 1000,\n" +
		"  'proto_version', '1', 'publication_names', " + quote(`"`+strings.ReplaceAll(publication, `"`, `""`)+`"`) + ")"
}
