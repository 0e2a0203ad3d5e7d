package breaker

import (
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Status is what a breaker is at one moment.
type Status struct {
	State   State
	Since   time.Time
	RetryAt time.Time    // when the next probe is due, unless it is closed
	Opened  int          // how often it has opened
	Cause   *fault.Error // the failure that opened it, unless it is closed
}

// Err is the status as a failure: nil if the breaker is closed. It has the why
// and the fix of its cause, because that is what a person can act on.
func (s Status) Err() error {
	if s.State == Closed {
		return nil
	}
	return s.fault()
}

func (s Status) fault() *fault.Error {
	c := s.Cause
	return fault.Wrap(c, fault.BreakerOpen, "Kafka is tried again at %s", s.RetryAt.UTC().Format(time.RFC3339)).
		WithWhy("Kafka failed too often in a row; the last time with %s %s (%s): %s", c.Code.ID, c.Code.Name, c.Code.Class, c.Reason()).
		WithFix("%s", c.Remedy())
}

// quiet is how long the rounds of an outage stay untold while their cause is
// the same: at five minutes each, three.
const quiet = 15 * time.Minute

// lines tells the changes to the log. An outage is a line when the breaker
// opens, one for the first time it is half-open, one when that fails, and one
// at the end; what repeats in between is counted. It is called by one
// goroutine at a time: gobreaker's lock is held.
type lines struct {
	log zerolog.Logger

	opened   time.Time // begin of the outage
	rounds   int       // failed half-opens since then
	told     time.Time // the last line about an opening
	cause    *fault.Code
	repeated int
}

func (l *lines) change(from, to Status) {
	switch to.State {
	case Open:
		l.open(from, to)
	case HalfOpen:
		if l.rounds == 0 {
			l.log.Info().Str("from", string(from.State)).Str("to", string(to.State)).Msg("circuit breaker")
		}
	case Closed:
		l.log.Info().Str("from", string(from.State)).Str("to", string(to.State)).Int("repeated", l.repeated).
			Float64("duration_seconds", to.Since.Sub(l.opened).Seconds()).Msg("circuit breaker")
	}
}

func (l *lines) open(from, to Status) {
	again := from.State == HalfOpen
	if !again {
		l.opened, l.rounds, l.repeated = to.Since, 0, 0
	} else {
		l.rounds++
	}
	if l.rounds > 1 && to.Cause.Code == l.cause && to.Since.Sub(l.told) < quiet {
		l.repeated++
		return
	}
	f := to.fault()
	e := l.log.Warn().Str("from", string(from.State)).Str("to", string(to.State)).
		Fields(f.Fields()).Str("cause", to.Cause.Code.ID).
		Time("retry_at", to.RetryAt.UTC()).Err(to.Cause)
	if l.repeated > 0 {
		e = e.Int("repeated", l.repeated)
	}
	e.Msg("circuit breaker")
	l.told, l.cause, l.repeated = to.Since, to.Cause.Code, 0
}
