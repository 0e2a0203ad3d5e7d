package main

import (
	"context"
	"time"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/live"
	"github.com/holdwall/outbox-relay/internal/relay"
)

// newFeed is what the health and the admin listener tell of a running service.
func (s *service) newFeed() *live.Feed {
	o, k := s.cfg.Outbox, s.cfg.Kafka
	return &live.Feed{
		Recorder: s.recorder, State: s.state.Get, Slot: func() live.Slot { return shownSlot(s.guard.Latest()) }, Lag: s.lag,
		About: live.About{
			Service: "outbox-relay", Version: build().Version, Instance: instance(), Relay: o.Name, Fingerprint: s.opts.fingerprint,
			Names: live.Names{
				Slot: o.Slot, Publication: o.Publication, Table: o.Table.String(),
				Events: k.EventsTopic, Letters: k.DLQTopic, Checkpoint: k.CheckpointTopic,
			},
		},
	}
}

// lag is how old the oldest commit is that is not in Kafka. A replica that does
// not hold the slot, and has not tried in vain, knows nothing of that.
func (s *service) lag() (seconds float64, known bool) {
	s.mu.Lock()
	now := s.now
	s.mu.Unlock()
	switch now {
	case relay.Streaming, relay.Paused, relay.Backoff, relay.Failed:
		return s.relay.Lag(), true
	}
	return 0, false
}

// onCommit tells whoever wants to know of a Kafka transaction, one after another:
// each returns at once.
func (s *service) onCommit(c relay.Commit) {
	for _, hear := range s.hearers {
		hear(c)
	}
}

// lagLimit is from when on the check of the lag warns.
const lagLimit = time.Minute

// checkLag answers whether Kafka is far behind Postgres.
func checkLag(feed *live.Feed) health.Check {
	return func(context.Context) health.Result {
		lag := feed.Now().Lag
		r := health.Result{Status: health.Pass, Facts: map[string]any{"threshold_seconds": lagLimit.Seconds()}}
		if lag.Bytes != nil {
			r.Facts["bytes"] = *lag.Bytes
		}
		if lag.Seconds != nil {
			if r.Facts["seconds"] = *lag.Seconds; *lag.Seconds > lagLimit.Seconds() {
				r.Status, r.Code, r.Hint = health.Warn, fault.LagHigh.ID, fault.LagHigh.Fix
			}
		}
		return r
	}
}

// letterNews is for how long after a dead letter its check warns.
const letterNews = 15 * time.Minute

// checkLetters answers whether rows have become dead letters of late. It does not
// ask Kafka: what it knows is what this replica has written, and the checkpoint.
func checkLetters(rec *live.Recorder) health.Check {
	return func(context.Context) health.Result {
		total, parked, newest, known := rec.Letters()
		r := health.Result{Status: health.Pass, Facts: map[string]any{}}
		if known {
			r.Facts["records"], r.Facts["parked_keys"] = total, parked
		}
		if !newest.IsZero() {
			r.Facts["newest"] = newest.UTC().Format(time.RFC3339)
		}
		if parked > 0 || !newest.IsZero() && time.Since(newest) < letterNews {
			r.Status, r.Code, r.Hint = health.Warn, fault.LettersNew.ID, fault.LettersNew.Fix
		}
		return r
	}
}
