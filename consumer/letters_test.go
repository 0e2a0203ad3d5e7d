package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// Each way of failing makes a letter that says so, with the registered code.
func TestLetters(t *testing.T) {
	type want struct {
		Reason   dlq.Reason
		Code     string
		Message  string
		Attempts int // calls of the handler
	}
	h := func(name, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: name, Value: []byte(value)} }
	plain := &kgo.Record{Topic: events, Key: []byte("k"), Value: []byte("hello")}
	for name, tc := range map[string]struct {
		rec     *kgo.Record
		handler func() error
		foreign consumer.Foreign
		want    want
	}{
		"gave up":   {event(0, "k", 1), func() error { return errNotYet }, 0, want{dlq.Handler, fault.HandlerGaveUp.ID, "after 3 attempts: not yet", 3}},
		"permanent": {event(0, "k", 1), func() error { return fmt.Errorf("wrap: %w", consumer.Permanent(errNotYet)) }, 0, want{dlq.Handler, fault.HandlerRefused.ID, "after 1 attempts: wrap: not yet", 1}},
		"panic":     {event(0, "k", 1), func() error { panic("oh") }, 0, want{dlq.Handler, fault.HandlerPanicked.ID, "after 3 attempts: panic: oh", 3}},
		"lsn":       {event(0, "k", 1, h(outbox.HeaderLSN, "0/XYZ")), nil, 0, want{dlq.Decode, fault.HeaderUnreadable.ID, "header outbox.lsn cannot be read", 0}},
		"timeline":  {event(0, "k", 1, h(outbox.HeaderTimeline, "-1")), nil, 0, want{dlq.Decode, fault.HeaderUnreadable.ID, "header outbox.tli cannot be read", 0}},
		"time":      {event(0, "k", 1, h(outbox.HeaderCommitTS, "noon")), nil, 0, want{dlq.Decode, fault.HeaderUnreadable.ID, "header outbox.commit_ts cannot be read", 0}},
		"foreign":   {plain, nil, consumer.LetterForeign, want{dlq.Decode, fault.RecordForeign.ID, "the record was not written by a relay", 0}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.produce(tc.rec)
			var mu sync.Mutex
			calls := 0
			cfg := w.config()
			cfg.Attempts, cfg.Foreign, cfg.Name, cfg.Version = 3, tc.foreign, "invoicing", "1.2"
			cfg.LetterRetry = dlq.Schedule{Base: time.Minute, Max: time.Hour, Attempts: 5}
			cfg.Handler = func(context.Context, consumer.Event) error {
				mu.Lock()
				defer mu.Unlock()
				calls++
				return tc.handler()
			}
			m := w.start(cfg)
			rec := w.read(dead, 1)[0]
			w.awaitCommitted(events, 0, 1)
			if err := m.stop(); err != nil {
				t.Error(err)
			}
			l, err := dlq.Parse(rec)
			if err != nil {
				t.Fatal(err)
			}
			if heals := name == "gave up" || name == "panic"; heals != (l.NextAt.Sub(l.At) == time.Minute) || !heals && !l.NextAt.IsZero() {
				t.Errorf("to be tried again at %s, written at %s", l.NextAt, l.At)
			}
			if diff := cmp.Diff(tc.want, want{l.Reason, l.Code, l.Message, calls}); diff != "" {
				t.Error(diff)
			}
			if l.Stage != dlq.TaskPut || l.Component != "consumer" || l.Group != group || l.Relay != "invoicing" || l.RelayVersion != "1.2" ||
				l.Topic != events || !l.HasSource || l.SourcePartition != 0 || l.SourceOffset != 0 {
				t.Errorf("%+v", l)
			}
			if got := header(rec, consumer.HeaderOrigin); got != events+"/0/0" {
				t.Errorf("origin %q", got)
			}
			if string(rec.Value) != string(tc.rec.Value) || string(rec.Key) != string(tc.rec.Key) {
				t.Error("key or value changed")
			}
			w.awaitMetric("outbox_consumer_dead_letters_total", map[string]string{"reason": string(tc.want.Reason)}, 1)
		})
	}
}

// A foreign record is an event with what it has, unless it is not wanted.
func TestForeignIsHandled(t *testing.T) {
	w := newWorld(t, 1)
	w.produce(&kgo.Record{Topic: events, Key: []byte("k"), Value: []byte("hello"), Headers: []kgo.RecordHeader{{Key: "x", Value: []byte("y")}}})
	seen := newLog()
	cfg := w.config()
	cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
	w.start(cfg)
	ev := seen.count(t, 1)[0]
	if ev.ID != "" || ev.Type != "" || !ev.Position.IsZero() || string(ev.Payload) != "hello" || len(ev.Headers) != 1 || ev.Identity() != events+"/0/0" {
		t.Errorf("%+v", ev)
	}
}

// The offset is not committed before the letter is acknowledged.
func TestLetterBeforeOffset(t *testing.T) {
	w := newWorld(t, 1)
	w.produce(event(0, "k", 1), event(0, "k", 2))
	fault := w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: dead, Err: kerr.TopicAuthorizationFailed, Count: -1})
	seen := newLog()
	cfg := w.config()
	cfg.Handler = func(_ context.Context, ev consumer.Event) error {
		if string(ev.Payload) == "1" {
			return consumer.Permanent(errNotYet)
		}
		seen.add(ev)
		return nil
	}
	w.start(cfg)
	w.awaitMetricAbove("outbox_consumer_unpublished_total", nil, 2)
	if len(seen.all()) > 0 {
		t.Error("an event overtook the one before it")
	}
	if at, _ := w.committed(events, 0); at > 0 {
		t.Errorf("committed %d before the letter was there", at)
	}
	fault.Remove()
	w.read(dead, 1)
	seen.count(t, 1)
	w.awaitCommitted(events, 0, 2)
}

// A letter that its topic does not take is made smaller.
func TestLetterTooLarge(t *testing.T) {
	w := newWorld(t, 1)
	big := event(0, "k", 1)
	big.Value = []byte(strings.Repeat("x", 300_000))
	w.produce(big)
	w.cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: dead, Err: kerr.MessageTooLarge, Count: 1,
	})
	cfg := w.config()
	cfg.MaxLetterBytes = 400_000
	cfg.Handler = func(context.Context, consumer.Event) error { return consumer.Permanent(errNotYet) }
	w.start(cfg)
	l, err := dlq.Parse(w.read(dead, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	if !l.Omitted.Payload || l.Omitted.PayloadBytes != 300_000 || l.ID() != "id-1" {
		t.Errorf("%+v", l.Omitted)
	}
}

// Without a topic for letters nothing is passed over.
func TestGiveUpWithoutLetters(t *testing.T) {
	for _, tc := range []struct{ workers, attempts int }{{1, 1}, {1, 2}, {3, 1}, {3, 2}} {
		w := newWorld(t, 1)
		w.produce(event(0, "k", 1), event(0, "k", 2), event(0, "k", 3))
		seen := newLog()
		cfg := w.config()
		cfg.DeadLetterTopic, cfg.Attempts, cfg.Concurrency = "", tc.attempts, tc.workers
		cfg.Handler = func(_ context.Context, ev consumer.Event) error {
			if string(ev.Payload) == "2" {
				return errNotYet
			}
			seen.add(ev)
			return nil
		}
		err := w.start(cfg).wait()
		var gaveUp *consumer.GaveUpError
		if !errors.As(err, &gaveUp) || !errors.Is(err, errNotYet) {
			t.Fatalf("Run returned %v", err)
		}
		if gaveUp.Offset != 1 || gaveUp.ID != "id-2" || gaveUp.Attempts != tc.attempts {
			t.Errorf("%+v", gaveUp)
		}
		if diff := cmp.Diff([]string{"1"}, texts(seen.all())); diff != "" {
			t.Error(diff)
		}
		if at, _ := w.committed(events, 0); at != 1 {
			t.Errorf("committed %d, want 1", at)
		}
	}
}

// RetryAfter replaces the backoff.
func TestRetryAfter(t *testing.T) {
	w := newWorld(t, 1)
	w.produce(event(0, "k", 1))
	seen := newLog()
	var failedAt time.Time
	cfg := w.config()
	cfg.Backoff = func(int) time.Duration { return time.Hour }
	const wait = 60 * time.Millisecond
	cfg.Handler = func(_ context.Context, ev consumer.Event) error {
		if ev.Attempt == 1 {
			failedAt = time.Now()
			return fmt.Errorf("busy: %w", consumer.RetryAfter(errNotYet, wait))
		}
		if d := time.Since(failedAt); d < wait {
			t.Errorf("tried again after %s", d)
		}
		seen.add(ev)
		return nil
	}
	w.start(cfg)
	if ev := seen.count(t, 1)[0]; ev.Attempt != 2 {
		t.Errorf("attempt %d", ev.Attempt)
	}
}

// Replays for another group are skipped; those for this one are handled.
func TestReplaysForOthers(t *testing.T) {
	w := newWorld(t, 1)
	h := func(name, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: name, Value: []byte(value)} }
	w.produce(
		event(0, "k", 1, h(outbox.HeaderReplayed, "2026-01-01T00:00:00.000000Z"), h(outbox.HeaderGroup, "somebody-else")),
		event(0, "k", 2, h(outbox.HeaderReplayed, "2026-01-01T00:00:00.000000Z"), h(outbox.HeaderGroup, group), h(outbox.HeaderAttempts, "1")),
		event(0, "k", 3, h(outbox.HeaderReplayed, "2026-01-01T00:00:00.000000Z")),
	)
	seen := newLog()
	cfg := w.config()
	cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
	w.start(cfg)
	got := seen.count(t, 2)
	if diff := cmp.Diff([]string{"2", "3"}, texts(got)); diff != "" {
		t.Error(diff)
	}
	if !got[0].Replayed || got[0].Attempt != 1 {
		t.Errorf("%+v", got[0])
	}
	w.awaitCommitted(events, 0, 3)
	w.awaitMetric("outbox_consumer_skipped_total", map[string]string{"why": "other_group"}, 1)
}
