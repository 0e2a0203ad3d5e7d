package verify

import (
	"context"
	"fmt"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/replication"
)

// lineage is how the server's timeline came about, oldest first.
type lineage []replication.Switch

// readLineage asks the server. It takes the right to read the server's files,
// and only where there was a failover.
func readLineage(ctx context.Context, conn *pgx.Conn) (lineage, error) {
	var now int32
	if err := conn.QueryRow(ctx, timelineNow).Scan(&now); err != nil {
		return nil, fmt.Errorf("read timeline: %w", err)
	}
	if now == 1 {
		return nil, nil
	}
	var text string
	if err := conn.QueryRow(ctx, `SELECT pg_read_file($1)`, fmt.Sprintf("pg_wal/%08X.history", now)).Scan(&text); err != nil {
		return nil, fmt.Errorf("read history of timeline %d: %w", now, err)
	}
	switches, err := replication.ParseHistory([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("read history of timeline %d: %w", now, err)
	}
	return switches, nil
}

// origin is the timeline on which a position was written first. Timelines share
// what is before their switch, so such a position has several names: a session
// names it by the timeline that it streams from. What an ancestor wrote behind
// the switch has only its own: that is what was lost.
func (l lineage) origin(timeline int32, at pglogrepl.LSN) int32 {
	for _, s := range l {
		if s.Timeline < timeline && at < s.At {
			return s.Timeline
		}
	}
	return timeline
}

// settle gives every position of the evidence its oldest name.
func (l lineage) settle(ev *Evidence) {
	if len(l) == 0 {
		return
	}
	for i := range ev.Oracle.Txs {
		tx := &ev.Oracle.Txs[i]
		tx.Timeline = l.origin(tx.Timeline, tx.LSN)
	}
	for i := range ev.Logs {
		for j := range ev.Logs[i].Records {
			r := &ev.Logs[i].Records[j]
			r.Timeline = l.origin(r.Timeline, r.LSN)
		}
	}
	for i := range ev.Checkpoints {
		p := &ev.Checkpoints[i].Checkpoint.Pos
		// A checkpoint at the switch itself still covers only what is before it.
		p.Timeline = l.origin(p.Timeline, max(p.EndLSN, 1)-1)
	}
}
