package guard

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/replication"
)

// reading is what one look at the server brings.
type reading struct {
	at          time.Time // by our clock
	skew        time.Duration
	host        string
	version     int
	timeline    int32
	limit       int64 // max_slot_wal_keep_size in bytes; -1: none
	idleTimeout time.Duration
	slot        replication.Slot
	exists      bool
	holder      string
	others      []replication.Slot // other logical slots of the server
}

// pg_size_bytes reads what current_setting shows, -1 included.
// idle_replication_slot_timeout came with version 18.
const serverSQL = `SELECT clock_timestamp(), current_setting('server_version_num')::int,
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int,
    pg_size_bytes(current_setting('max_slot_wal_keep_size')),
    extract(epoch FROM coalesce(current_setting('idle_replication_slot_timeout', true), '0')::interval)::float8`

// read looks at a primary.
func read(ctx context.Context, conn *pgx.Conn, name string) (reading, error) {
	r := reading{}
	var server time.Time
	var idle float64
	asked := time.Now()
	if err := conn.QueryRow(ctx, serverSQL).Scan(&server, &r.version, &r.timeline, &r.limit, &idle); err != nil {
		return r, fmt.Errorf("read server: %w", err)
	}
	r.at = time.Now()
	r.skew = server.Sub(asked.Add(r.at.Sub(asked) / 2))
	r.idleTimeout = time.Duration(idle * float64(time.Second))
	slots, err := replication.Slots(ctx, conn)
	if err != nil {
		return r, err
	}
	for _, s := range slots {
		if s.Name != name {
			r.others = append(r.others, s)
			continue
		}
		r.slot, r.exists = s, true
		if s.Active {
			r.holder = replication.WhoHolds(ctx, conn, s.ActivePID).String()
		}
	}
	if !r.exists {
		// Slots say where the WAL ends; without one of ours it is asked for.
		s, err := replication.CurrentLSN(ctx, conn)
		if err != nil {
			return r, err
		}
		r.slot.Name, r.slot.CurrentLSN = name, s
	}
	return r, nil
}
