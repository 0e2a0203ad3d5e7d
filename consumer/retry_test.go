package consumer_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/dlq"
)

// With a retry topic a failing event steps aside: the next of its key goes
// first, the event comes back no sooner than it is due, and counts on.
func TestRetryTopic(t *testing.T) {
	for _, workers := range []int{1, 3} {
		w := newWorld(t, 1)
		w.produce(event(0, "k", 1), event(0, "k", 2), event(0, "k", 3))
		seen := newLog()
		const wait = 80 * time.Millisecond
		var mu sync.Mutex
		var tries []time.Time
		cfg := w.config()
		cfg.RetryTopic, cfg.Concurrency = consumer.RetryTopicOf(group), workers
		cfg.Backoff = func(int) time.Duration { return wait }
		cfg.Handler = func(_ context.Context, ev consumer.Event) error {
			if string(ev.Payload) == "2" && ev.Attempt < 3 {
				mu.Lock()
				tries = append(tries, time.Now())
				mu.Unlock()
				return errNotYet
			}
			seen.add(ev)
			return nil
		}
		m := w.start(cfg)
		got := seen.count(t, 3)
		if diff := cmp.Diff([]string{"1", "3", "2"}, texts(got)); diff != "" {
			t.Error(diff)
		}
		if ev := got[2]; ev.Attempt != 3 || ev.Topic != events || ev.Offset != 1 || ev.ID != "id-2" || len(ev.Headers) != 1 {
			t.Errorf("%+v", ev)
		}
		if d := tries[1].Sub(tries[0]); d < wait {
			t.Errorf("came back after %s", d)
		}
		w.awaitCommitted(events, 0, 3)
		w.awaitCommitted(again, 0, 2)
		w.awaitMetric("outbox_consumer_retries_total", map[string]string{"where": "topic"}, 2)
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	}
}

// After the last attempt on the retry topic the letter names where the event
// came from, and where a replay goes.
func TestRetryTopicEndsInLetter(t *testing.T) {
	w := newWorld(t, 1)
	w.produce(event(0, "k", 1), event(0, "k", 2))
	cfg := w.config()
	cfg.RetryTopic, cfg.Attempts = again, 3
	seen := newLog()
	cfg.Handler = func(_ context.Context, ev consumer.Event) error {
		if string(ev.Payload) == "2" && !ev.Replayed {
			return errNotYet
		}
		seen.add(ev)
		return nil
	}
	w.start(cfg)
	rec := w.read(dead, 1)[0]
	l, err := dlq.Parse(rec)
	if err != nil {
		t.Fatal(err)
	}
	if l.Topic != again || l.SourceOffset != 1 || header(rec, consumer.HeaderOrigin) != events+"/0/1" || l.Message != "after 3 attempts: not yet" {
		t.Errorf("%+v", l)
	}
	for _, name := range []string{consumer.HeaderNotBefore, consumer.HeaderFailed, consumer.HeaderFirstAt} {
		if header(rec, name) != "" {
			t.Errorf("the letter has %s", name)
		}
	}
	if l.At.Sub(l.FirstAt) < 10*time.Millisecond {
		t.Errorf("first attempt %s, letter %s", l.FirstAt, l.At)
	}

	// Its replay goes to the retry topic, and is handled as what it was.
	replay, err := l.Replay(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if replay.Topic != again {
		t.Fatalf("replay goes to %s", replay.Topic)
	}
	w.produce(replay)
	ev := seen.count(t, 2)[1]
	if !ev.Replayed || ev.Topic != events || ev.Offset != 1 || ev.Attempt != 1 {
		t.Errorf("%+v", ev)
	}
}

// While the first record of the retry topic is not due its partition is not
// fetched: what waits is bounded.
func TestRetryTopicHoldsStill(t *testing.T) {
	w := newWorld(t, 1)
	h := func(at time.Time) kgo.RecordHeader {
		return kgo.RecordHeader{Key: consumer.HeaderNotBefore, Value: []byte(at.UTC().Format(time.RFC3339Nano))}
	}
	for i := range 200 {
		due := time.Now().Add(-time.Second)
		if i == 0 {
			due = time.Now().Add(time.Hour)
		}
		r := event(0, "k", i, h(due))
		r.Topic = again
		w.produce(r)
		if i == 0 {
			w.produce(event(0, "x", 1000))
		}
	}
	seen := newLog()
	cfg := w.config()
	cfg.RetryTopic, cfg.MaxInFlight = again, 50
	cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
	w.start(cfg)
	// The event of the other topic gets through beside those that wait.
	seen.count(t, 1)
	w.awaitCommitted(events, 0, 1)
	w.produce(event(0, "x", 1001))
	if got := texts(seen.count(t, 2)); got[0] != "1000" || got[1] != "1001" {
		t.Errorf("%v", got)
	}
	if n := w.metric("outbox_consumer_held_records", nil); n < 1 || n > 100 {
		t.Errorf("%v records wait, and 50 are allowed, to within one poll", n)
	}
}
