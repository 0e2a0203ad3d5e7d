package consumer_test

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/outbox"
)

func h(name, value string) kgo.RecordHeader {
	return kgo.RecordHeader{Key: name, Value: []byte(value)}
}

// A range that a publisher wrote twice is handled once, also when the second
// copy meets another member: the mark travels with the committed offset.
func TestHighWaterSkipsRepublished(t *testing.T) {
	for _, workers := range []int{1, 3} {
		t.Run(strconv.Itoa(workers), func(t *testing.T) {
			w := newWorld(t, 2)
			seen := newLog()
			cfg := w.config()
			cfg.Concurrency, cfg.Dedupe = workers, consumer.HighWater
			cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
			var recs []*kgo.Record
			for i := range 20 {
				recs = append(recs, event(0, "k", i))
			}
			w.produce(recs...)
			w.produce(event(1, "l", 5)) // another partition has a mark of its own
			w.produce(recs[10:]...)
			w.produce(event(0, "k", 20))
			m := w.start(cfg)
			seen.count(t, 22)
			w.awaitCommitted(events, 0, 31)
			w.awaitCommitted(events, 1, 1)
			if err := m.stop(); err != nil {
				t.Error(err)
			}
			if _, metadata := w.committed(events, 0); !strings.HasPrefix(metadata, "obx1;") {
				t.Errorf("metadata %q", metadata)
			}
			w.awaitMetric("outbox_consumer_skipped_total", map[string]string{"why": "high_water"}, 10)

			w.produce(recs[5:]...)
			w.produce(event(0, "k", 21))
			cfg.Registerer = nil
			w.start(cfg)
			got := seen.count(t, 23)
			w.awaitCommitted(events, 0, 47)
			if len(seen.all()) != 23 || string(got[22].Payload) != "21" {
				t.Errorf("%v", texts(seen.all()))
			}
		})
	}
}

// A mark that is committed never covers an event that is not done: after a stop
// in the middle the event comes again.
func TestHighWaterCoversOnlyWhatIsDone(t *testing.T) {
	for _, workers := range []int{1, 3} {
		w := newWorld(t, 1)
		var recs []*kgo.Record
		for i := range 10 {
			recs = append(recs, event(0, "k"+strconv.Itoa(i), i))
		}
		w.produce(recs...)
		seen := newLog()
		cfg := w.config()
		cfg.Concurrency, cfg.Dedupe, cfg.Attempts, cfg.Registerer = workers, consumer.HighWater, 1<<20, nil
		cfg.Handler = func(_ context.Context, ev consumer.Event) error {
			if string(ev.Payload) == "4" {
				return errNotYet
			}
			seen.add(ev)
			return nil
		}
		m := w.start(cfg)
		seen.count(t, 9)
		w.awaitCommitted(events, 0, 4)
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		again := newLog()
		cfg.Handler = func(_ context.Context, ev consumer.Event) error { again.add(ev); return nil }
		w.start(cfg)
		if got := again.count(t, 1); string(got[0].Payload) != "4" {
			t.Errorf("%v", texts(got))
		}
		w.awaitCommitted(events, 0, 10)
	}
}

// A replay stands below the mark and is let through, once per replay.
func TestHighWaterLetsReplaysThrough(t *testing.T) {
	w := newWorld(t, 1)
	first, second := h(outbox.HeaderReplayed, "2026-01-01T00:00:01.000000Z"), h(outbox.HeaderReplayed, "2026-01-01T00:00:02.000000Z")
	w.produce(event(0, "k", 1), event(0, "k", 9), event(0, "k", 2, first), event(0, "k", 2, first), event(0, "k", 2, second), event(0, "k", 3))
	seen := newLog()
	cfg := w.config()
	cfg.Dedupe = consumer.HighWater
	cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
	w.start(cfg)
	w.awaitCommitted(events, 0, 6)
	if diff := cmp.Diff([]string{"1", "9", "2", "2"}, texts(seen.all())); diff != "" {
		t.Error(diff)
	}
	w.awaitMetric("outbox_consumer_skipped_total", map[string]string{"why": "replay"}, 1)
	w.awaitMetric("outbox_consumer_skipped_total", map[string]string{"why": "high_water"}, 1)
}

// A source whose positions begin anew is not mistaken for repetition: skipping
// it would lose every event.
func TestHighWaterNewHistory(t *testing.T) {
	w := newWorld(t, 1)
	late := func(n int) *kgo.Record {
		return event(0, "k", n, h(outbox.HeaderCommitTS, "2026-06-01T00:00:00.000000Z"))
	}
	w.produce(event(0, "k", 100), late(1), late(2), late(1))
	seen := newLog()
	cfg := w.config()
	cfg.Dedupe = consumer.HighWater
	cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
	w.start(cfg)
	w.awaitCommitted(events, 0, 4)
	if diff := cmp.Diff([]string{"100", "1", "2"}, texts(seen.all())); diff != "" {
		t.Error(diff)
	}
	w.awaitMetric("outbox_consumer_source_rewinds_total", nil, 1)
}

// A recovered record has a position of the recovery's own. Above the mark it is
// like any other; below it, as after a restore, its identity decides.
func TestHighWaterRecovered(t *testing.T) {
	w := newWorld(t, 1)
	recovered := h(outbox.HeaderRecovered, "2026-01-01T00:00:01.000000Z")
	w.produce(event(0, "k", 5), event(0, "k", 9, recovered), event(0, "k", 7), event(0, "k", 2, recovered), event(0, "k", 2, recovered), event(0, "k", 3))
	seen := newLog()
	cfg := w.config()
	cfg.Dedupe = consumer.HighWater
	cfg.Handler = func(_ context.Context, ev consumer.Event) error { seen.add(ev); return nil }
	w.start(cfg)
	w.awaitCommitted(events, 0, 6)
	if diff := cmp.Diff([]string{"5", "9", "2"}, texts(seen.all())); diff != "" {
		t.Error(diff)
	}
	w.awaitMetric("outbox_consumer_skipped_total", map[string]string{"why": "high_water"}, 3)
}
