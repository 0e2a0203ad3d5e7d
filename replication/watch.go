package replication

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
)

const (
	// defaultRecheck is how often slot and publication are looked at while
	// streaming.
	defaultRecheck = 5 * time.Second
	// defaultAnswer bounds one look: without it a network that went dead
	// without a word is noticed when TCP gives up, after a quarter of an hour.
	defaultAnswer = 5 * time.Second
	// minPatience is how long there may be no sign of life on either
	// connection; a longer wal_sender_timeout counts instead. The silence of
	// the stream alone proves nothing: a server may be long over decoding a
	// large transaction that is not for us.
	minPatience = 15 * time.Second
	// reconnect is the pause between attempts to get the monitor back.
	reconnect = 500 * time.Millisecond
	// yield is how many polls the reluctant one leaves to others. They poll
	// with jitter, up to one and a half apart, so each has looked twice.
	yield = 4
)

// awaitFree returns when nobody streams from the slot. It polls the view with
// jitter: a refused START_REPLICATION would be an ERROR in the server's log
// each time.
//
// Who is reluctant looks again after a while, and takes the slot only if
// nobody wanted it: the handover from one sound replica to another must not
// end with one that cannot deliver.
//
// It returns when it first saw the slot free, if it had to wait for that. No
// answer may take longer than the time given: a standby that hangs in a network
// gone dead would be counted on in vain.
func (s *Server) awaitFree(ctx context.Context, answer time.Duration) (freed time.Time, err error) {
	var told Holder
	yielded, waited := false, false
	for {
		slot, err := s.look(ctx, answer)
		if err != nil {
			return time.Time{}, err
		}
		if !slot.Active {
			if waited && freed.IsZero() {
				freed = time.Now()
			}
			if yielded || s.cfg.Reluctant == nil || !s.cfg.Reluctant() {
				return freed, nil
			}
			yielded = true
			if err := sleep(ctx, yield*s.cfg.StandbyPoll); err != nil {
				return time.Time{}, err
			}
			continue
		}
		yielded, waited, freed = false, true, time.Time{}
		if s.cfg.OnStandby != nil && told.PID != slot.ActivePID {
			told = WhoHolds(ctx, s.conn, slot.ActivePID)
			s.cfg.OnStandby(told)
			told.PID = slot.ActivePID
		}
		if err := sleep(ctx, s.cfg.StandbyPoll/2+rand.N(s.cfg.StandbyPoll)); err != nil {
			return time.Time{}, err
		}
	}
}

// look is slot within a time.
func (s *Server) look(ctx context.Context, within time.Duration) (Slot, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return s.slot(ctx)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watch looks after the server over the plain connection while the stream
// runs. It halts the session when slot or publication no longer hold what was
// found at the start, and it notices a server that wants to stop: at a fast
// shutdown ordinary backends are ended at once, walsenders last, and those
// wait for us.
func (s *Source) watch(ctx context.Context) error {
	interval := s.recheckInterval
	if s.canary != nil {
		interval = min(interval, s.cfg.Canary)
	}
	for {
		if err := s.recheck(ctx); err != nil {
			return err
		}
		s.tendCanary(ctx)
		wctx, cancel := context.WithTimeout(ctx, interval)
		_, err := s.server.conn.WaitForNotification(wctx)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if pgconn.Timeout(err) && !s.server.conn.IsClosed() {
			continue
		}
		if err := s.reconnect(ctx); err != nil {
			return err
		}
	}
}

// Alive asks the server, over a connection of its own, whether this session
// still holds the slot. Who has lost it must not fence the one who has it now.
// It may be called from any goroutine while Run runs.
func (s *Source) Alive(ctx context.Context) error {
	ask := Server{cfg: s.cfg, host: s.server.host}
	if err := ask.dial(ctx); err != nil {
		return err
	}
	defer ask.Close()
	slot, err := ask.slot(ctx)
	if err != nil {
		return err
	}
	if s.holds(slot) {
		return nil
	}
	// Why the walsender left stands in the stream, which nobody has read yet.
	s.orphaned.Store(true)
	select {
	case <-s.ended:
		return s.endErr
	case <-time.After(s.answerTimeout):
	case <-ctx.Done():
	}
	return s.lost(slot)
}

// holds tells whether the slot is streamed from by this session.
func (s *Source) holds(slot Slot) bool { return slot.ActivePID == int(s.pid) }

func (s *Source) lost(slot Slot) error {
	return fault.New(fault.PostgresLost, "slot %s is no longer held by this session", slot.Name)
}

// recheck compares the server with what the session began with.
func (s *Source) recheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.answerTimeout)
	defer cancel()
	slot, err := s.server.slot(ctx)
	if err == nil {
		s.heard.Store(time.Now().UnixNano())
		if !s.holds(slot) && s.orphaned.Swap(true) {
			return s.lost(slot) // and the stream has not said why since the last look
		}
		var hash string
		hash, err = s.server.probePublication(ctx)
		if err == nil && hash != s.state.OptionsHash {
			// Not wrong in itself, but ordinals may count differently from
			// here on: a new session takes it up knowingly.
			return fault.New(fault.PostgresLost, "publication %s was altered, starting anew", s.cfg.Publication)
		}
	}
	if err != nil && fault.CodeOf(err).Class == fault.Retry {
		return nil // the connection itself is in trouble: WaitForNotification will say so
	}
	return err
}

// reconnect gets the monitor back. While the server refuses it because it is
// shutting down, the reader is told.
func (s *Source) reconnect(ctx context.Context) error {
	defer s.stopping.Store(false)
	s.server.Close()
	for {
		dctx, cancel := context.WithTimeout(ctx, s.answerTimeout)
		err := s.server.dial(dctx)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if fault.CodeOf(err).Class != fault.Retry {
			return err
		}
		// Only the server's own word counts: "too many connections" would
		// fail us here too, and is no reason to let go of the slot.
		s.stopping.Store(fault.Has(err, fault.PostgresStopping))
		if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
			s.heard.Store(time.Now().UnixNano())
		}
		if silent := time.Since(time.Unix(0, s.heard.Load())); silent > s.patience {
			return fault.Wrap(err, fault.PostgresLost, "no sign of life from %s for %s", s.server.describe(), silent.Round(time.Second))
		}
		if err := sleep(ctx, reconnect); err != nil {
			return err
		}
	}
}
