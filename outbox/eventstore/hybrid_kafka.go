package eventstore

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// fromKafka delivers what comes from Kafka until something says that Kafka
// does not have everything; why is what.
//
// It does not ask whether Kafka is up. It counts: a broker that is down, a
// relay that is down, an event that became a dead letter and a topic that was
// cut all look the same from here, as events that the database has and the
// topics do not bring.
func (s *subscription) fromKafka(ctx context.Context, cl *kgo.Client) (why string, err error) {
	audit := audit{}
	settle := time.Now().Add(s.h.cfg.Settle)
	for {
		poll, cancel := context.WithDeadline(ctx, settle)
		fs := cl.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		for _, r := range fs.Records() {
			if why, err = s.record(ctx, r); why != "" || err != nil {
				return why, err
			}
		}
		if why := failure(fs); why != "" {
			return why, nil
		}
		if len(s.seen) < s.h.cfg.MaxSeen && time.Now().Before(settle) {
			continue
		}
		settle = time.Now().Add(s.h.cfg.Settle)
		if why := s.settle(ctx, &audit); why != "" {
			return why, nil
		}
		if len(s.seen) >= s.h.cfg.MaxSeen {
			return "more events are unsettled than may be remembered", nil
		}
	}
}

// record delivers one record, if it is an event of this log that was not
// delivered yet. The relay's topics may hold others, and letters that are
// replayed.
func (s *subscription) record(ctx context.Context, r *kgo.Record) (why string, err error) {
	at, ok := placeHeader(r, HeaderPosition)
	if !ok || s.delivered(at) {
		return "", nil
	}
	ev, lack := fromRecord(r)
	if lack != "" {
		return "", nil // it is missing then, and the counting finds out
	}
	if ev.Version > 1 {
		// An event whose predecessor did not come through the topic (a dead
		// letter) must not overtake it.
		if previous, ok := placeHeader(r, HeaderPrevious); !ok || !s.delivered(previous) {
			return "an event came without the one before it", nil
		}
	}
	if ev.Payload == nil {
		ev.Payload = []byte{}
	}
	ev.Position = s.floor.position()
	if err := deliver(ctx, s.handle, ev); err != nil {
		return "", err
	}
	s.seen[at] = struct{}{}
	return "", nil
}

// failure says what waiting for Kafka does not mend.
func failure(fs kgo.Fetches) string {
	for _, e := range fs.Errors() {
		var said *kerr.Error
		var lost *kgo.ErrDataLoss
		if errors.As(e.Err, &said) && !said.Retriable || errors.As(e.Err, &lost) {
			return "topic " + e.Topic + " cannot be read: " + e.Err.Error()
		}
	}
	return ""
}

// audit is a count that the deliveries have to come up to.
type audit struct {
	below uint64 // transactions below have ended; 0: none asked for
	want  int    // events above the floor and below
	since time.Time
}

// settle compares what was delivered with what the database has below a
// horizon. That number cannot change any more, and what was delivered is part
// of it, so equal numbers mean that nothing is missing, and the floor may rise.
func (s *subscription) settle(ctx context.Context, a *audit) (why string) {
	if a.below == 0 && !s.ask(ctx, a) {
		return ""
	}
	have := 0
	for at := range s.seen {
		if at.xid < a.below {
			have++
		}
	}
	if have == a.want {
		if a.want > 0 {
			s.retry = s.h.cfg.Retry
		}
		s.raise(a.below)
		*a = audit{}
		return ""
	}
	if time.Since(a.since) < s.h.cfg.Patience {
		return ""
	}
	s.h.log.Warn("events are in the database and not in Kafka", "missing", a.want-have)
	return "events are missing in Kafka"
}

// ask counts. A Postgres that does not answer leaves the settling for later:
// Kafka goes on as long as what is unsettled can be remembered.
func (s *subscription) ask(ctx context.Context, a *audit) bool {
	h, err := s.h.db.horizon(ctx)
	if err == nil {
		a.want, err = s.h.db.count(ctx, s.floor, h.xmin)
	}
	if err != nil {
		s.h.log.Info("settling is left for later", "error", err)
		return false
	}
	a.below, a.since = h.xmin, time.Now()
	return true
}
