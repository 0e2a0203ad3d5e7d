package main

import (
	"context"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/live"
	"github.com/holdwall/outbox-relay/internal/relay"
)

func TestCheckOfTheLag(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		seconds float64
		known   bool
		want    string
	}{{0, false, health.Pass}, {59, true, health.Pass}, {61, true, health.Warn}} {
		feed := &live.Feed{
			Recorder: live.NewRecorder(), State: func() health.Status { return health.Status{} },
			Lag: func() (float64, bool) { return c.seconds, c.known },
		}
		r := checkLag(feed)(context.Background())
		if _, shown := r.Facts["seconds"]; r.Status != c.want || shown != c.known || (r.Code == fault.LagHigh.ID) != (c.want == health.Warn) {
			t.Errorf("%v s, known %t: %+v", c.seconds, c.known, r)
		}
	}
}

func TestCheckOfLetters(t *testing.T) {
	t.Parallel()
	rec := live.NewRecorder()
	check := checkLetters(rec)
	if r := check(context.Background()); r.Status != health.Pass || r.Facts["records"] != nil {
		t.Errorf("before the first checkpoint: %+v", r)
	}
	rec.Commit(relay.Commit{Checkpoint: checkpoint.Checkpoint{Seq: 1, LettersTotal: 4}, Ended: time.Now()})
	if r := check(context.Background()); r.Status != health.Pass || r.Facts["records"] != uint64(4) {
		t.Errorf("letters of old: %+v", r)
	}
	rec.Commit(relay.Commit{Checkpoint: checkpoint.Checkpoint{Seq: 2, LettersTotal: 5}, Letters: 1, Ended: time.Now().Add(-letterNews)})
	if r := check(context.Background()); r.Status != health.Pass {
		t.Errorf("a letter of some time ago: %+v", r)
	}
	rec.Commit(relay.Commit{Checkpoint: checkpoint.Checkpoint{Seq: 3, LettersTotal: 6}, Letters: 1, Ended: time.Now()})
	if r := check(context.Background()); r.Status != health.Warn || r.Code != fault.LettersNew.ID || r.Hint == "" {
		t.Errorf("a new letter: %+v", r)
	}
	rec.Commit(relay.Commit{Checkpoint: checkpoint.Checkpoint{Seq: 4, Parked: []checkpoint.ParkedKey{{}}}, Ended: time.Now()})
	if r := check(context.Background()); r.Status != health.Warn || r.Facts["parked_keys"] != 1 {
		t.Errorf("a parked key: %+v", r)
	}
}
