package replication

import (
	"context"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// replyInterval bounds how often a server that keeps asking is answered. A
// stopping walsender asks again at every answer that does not satisfy it:
// 207,000 keepalives in 20 s were seen.
const replyInterval = 20 * time.Millisecond

// attend sends a status update when one is due: the position has moved, the
// server asks, or a third of its patience has passed.
func (s *Source) attend(now time.Time) error {
	due := pglogrepl.LSN(s.confirmed.Load()) != s.sent || !now.Before(s.nextTick) ||
		s.replyWanted && now.Sub(s.lastReply) >= replyInterval
	if !due {
		return nil
	}
	if s.replyWanted {
		s.lastReply = now
	}
	s.replyWanted = false
	s.nextTick = now.Add(s.tick)
	return s.status()
}

// status sends the confirmed position, as all three of write, flush and apply.
func (s *Source) status() error {
	at := pglogrepl.LSN(s.confirmed.Load())
	if at == 0 {
		return fault.New(fault.Unclassified, "confirmed position is zero")
	}
	if err := s.conn.Conn().SetWriteDeadline(time.Now().Add(s.tick)); err != nil {
		return classify(err, fault.Unclassified, "set deadline")
	}
	err := pglogrepl.SendStandbyStatusUpdate(context.Background(), s.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: at, WALFlushPosition: at, WALApplyPosition: at,
	})
	if err != nil {
		return classify(err, fault.Unclassified, "send status")
	}
	moved := s.sent != at
	s.sent = at
	if moved {
		crash.Point(crash.StatusSent)
	}
	return nil
}
