package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// Querier is the part of a Postgres connection that reading a slot needs.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Slot is a row of pg_replication_slots, as far as it concerns a relay, and
// what follows from it at the moment of reading. Fields that the server's
// version does not have are zero.
type Slot struct {
	Name      string
	Plugin    string
	Database  string
	Temporary bool
	TwoPhase  bool
	Synced    bool // PG 17: a copy on a standby; after its promotion it may stay set
	Failover  bool // PG 17
	Active    bool
	ActivePID int

	RestartLSN   pglogrepl.LSN // zero: null
	ConfirmedLSN pglogrepl.LSN // zero: null
	WALStatus    string        // reserved, extended, unreserved, lost
	Invalidation string        // PG 17: why it was invalidated
	SafeBytes    int64         // WAL that may still be written before it is lost; -1: no limit
	Inactive     time.Time     // PG 17: since when nobody streams; zero while somebody does
	CurrentLSN   pglogrepl.LSN // the server's WAL insert position when this was read
}

// Lost tells whether Postgres has given the slot up. A lost slot goes on
// showing its confirmed position, so that says nothing.
func (s Slot) Lost() bool {
	return s.WALStatus == "lost" || s.Invalidation != "" || s.RestartLSN == 0
}

// RetainedBytes is the WAL that the server keeps because of this slot: none if
// it was given up.
func (s Slot) RetainedBytes() int64 { return distance(s.RestartLSN, s.CurrentLSN) }

// LagBytes is the WAL that was written and not yet confirmed.
func (s Slot) LagBytes() int64 { return distance(s.ConfirmedLSN, s.CurrentLSN) }

func distance(from, to pglogrepl.LSN) int64 {
	if from == 0 || from > to {
		return 0
	}
	return int64(to - from)
}

// Holder is the session that streams from a slot.
type Holder struct {
	PID         int
	Application string
	Address     netip.Addr
	Since       time.Time
}

// String renders the holder for logs and people.
func (h Holder) String() string {
	s := fmt.Sprintf("PID %d", h.PID)
	if h.Application != "" {
		s += " " + h.Application
	}
	if h.Address.IsValid() {
		s += " from " + h.Address.String()
	}
	return s
}

// to_jsonb gives the columns that this server has under their names, so one
// statement serves Postgres 14 to 18.
const slotSQL = `SELECT to_jsonb(s), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text
  FROM pg_replication_slots s WHERE s.slot_name = $1`

// ErrNoSlot means that the slot does not exist.
var ErrNoSlot = errors.New("no such replication slot")

// Inspect reads one slot. It returns ErrNoSlot if there is none.
func Inspect(ctx context.Context, q Querier, name string) (Slot, error) {
	var raw []byte
	var current string
	err := q.QueryRow(ctx, slotSQL, name).Scan(&raw, &current)
	if errors.Is(err, pgx.ErrNoRows) {
		return Slot{}, ErrNoSlot
	}
	if err != nil {
		return Slot{}, fmt.Errorf("read slot %s: %w", name, err)
	}
	return parseSlot(raw, current)
}

func parseSlot(raw []byte, current string) (Slot, error) {
	var w struct {
		Name         string `json:"slot_name"`
		Plugin       string `json:"plugin"`
		Database     string `json:"database"`
		Temporary    bool   `json:"temporary"`
		TwoPhase     bool   `json:"two_phase"`
		Synced       bool   `json:"synced"`
		Failover     bool   `json:"failover"`
		Active       bool   `json:"active"`
		ActivePID    int    `json:"active_pid"`
		Restart      string `json:"restart_lsn"`
		Confirmed    string `json:"confirmed_flush_lsn"`
		WALStatus    string `json:"wal_status"`
		Invalidation string `json:"invalidation_reason"`
		Safe         *int64 `json:"safe_wal_size"`
		Inactive     string `json:"inactive_since"`
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return Slot{}, fmt.Errorf("read slot: %w", err)
	}
	s := Slot{
		Name: w.Name, Plugin: w.Plugin, Database: w.Database, Temporary: w.Temporary, TwoPhase: w.TwoPhase,
		Synced: w.Synced, Failover: w.Failover, Active: w.Active, ActivePID: w.ActivePID,
		WALStatus: w.WALStatus, Invalidation: w.Invalidation, SafeBytes: -1,
	}
	if w.Safe != nil {
		s.SafeBytes = max(0, *w.Safe) // below zero once it is unreserved
	}
	if w.Inactive != "" {
		at, err := time.Parse(time.RFC3339, w.Inactive)
		if err != nil {
			return Slot{}, fmt.Errorf("read slot %s: %w", w.Name, err)
		}
		s.Inactive = at
	}
	for _, f := range []struct {
		text string
		into *pglogrepl.LSN
	}{{w.Restart, &s.RestartLSN}, {w.Confirmed, &s.ConfirmedLSN}, {current, &s.CurrentLSN}} {
		if f.text == "" {
			continue
		}
		lsn, err := pglogrepl.ParseLSN(f.text)
		if err != nil {
			return Slot{}, fmt.Errorf("read slot %s: %w", w.Name, err)
		}
		*f.into = lsn
	}
	return s, nil
}

// Slots reads all logical slots of the server, by name.
func Slots(ctx context.Context, conn *pgx.Conn) ([]Slot, error) {
	rows, err := conn.Query(ctx, `SELECT to_jsonb(s), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text
	  FROM pg_replication_slots s WHERE s.slot_type = 'logical' ORDER BY s.slot_name`)
	if err != nil {
		return nil, fmt.Errorf("list slots: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Slot, error) {
		var raw []byte
		var current string
		if err := row.Scan(&raw, &current); err != nil {
			return Slot{}, err
		}
		return parseSlot(raw, current)
	})
}

// WhoHolds describes the backend with the given PID; what cannot be read
// (another superuser's session) is left zero.
func WhoHolds(ctx context.Context, q Querier, pid int) Holder {
	h := Holder{PID: pid}
	var addr *netip.Addr
	var since *time.Time
	err := q.QueryRow(ctx, `SELECT application_name, client_addr, backend_start FROM pg_stat_activity WHERE pid = $1`, pid).
		Scan(&h.Application, &addr, &since)
	if err != nil {
		return Holder{PID: pid}
	}
	if addr != nil {
		h.Address = *addr
	}
	if since != nil {
		h.Since = *since
	}
	return h
}

// CurrentLSN returns where the server's WAL ends, of a standby what it has
// replayed.
func CurrentLSN(ctx context.Context, q Querier) (pglogrepl.LSN, error) {
	var text string
	err := q.QueryRow(ctx, `SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text`).Scan(&text)
	if err != nil {
		return 0, fmt.Errorf("read end of WAL: %w", err)
	}
	return pglogrepl.ParseLSN(text)
}
