package consumer_test

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/dlq"
)

// outputs returns the values of what a read_committed reader finds in "out".
func (w *world) outputs(n int) []string {
	var out []string
	for _, r := range w.read("out", n) {
		out = append(out, string(r.Value))
	}
	return out
}

func (w *world) feed(n, keys int) []string {
	var recs []*kgo.Record
	var values []string
	for i := range n {
		recs = append(recs, event(0, "k"+strconv.Itoa(i%keys), i))
		values = append(values, strconv.Itoa(i))
	}
	w.produce(recs...)
	return values
}

func double(_ context.Context, ev consumer.Event) ([]*kgo.Record, error) {
	return []*kgo.Record{{Topic: "out", Key: ev.Key, Value: ev.Payload}}, nil
}

func (w *world) transformConfig() consumer.Config {
	cfg := w.config()
	cfg.Transform, cfg.MaxInFlight = double, 20
	return cfg
}

// Whatever fails at the end of a transaction, each event comes out once and in
// order.
func TestTransformOnceDespiteFaults(t *testing.T) {
	for name, tc := range map[string]kfake.Fault{
		"none":              {},
		"end refused":       {Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.UnknownServerError, Count: 2},
		"end abortable":     {Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.TransactionAbortable, Count: 2},
		"fenced":            {Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.InvalidProducerEpoch, Count: 1},
		"answer lost":       {Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.RequestTimedOut, Count: 2},
		"offsets refused":   {Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Topic: events, Err: kerr.IllegalGeneration, Count: 2},
		"produce refused":   {Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.TransactionAbortable, Count: 1},
		"produce forbidden": {Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.TopicAuthorizationFailed, Count: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			const n = 200
			var hits func() int
			if tc.Keys != nil {
				f := w.cluster.Fault(tc)
				hits = f.Hits
			}
			want := w.feed(n, 7)
			cfg := w.transformConfig()
			cfg.Concurrency = 3
			m := w.start(cfg)
			got := w.outputs(n)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			w.awaitMetric("outbox_consumer_handled_total", nil, n)
			if err := m.stop(); err != nil {
				t.Error(err)
			}
			if at, _ := w.committed(events, 0); at != n {
				t.Errorf("committed %d", at)
			}
			if extra := w.outputs(n); len(extra) != n {
				t.Errorf("%d records in the end", len(extra))
			}
			if hits != nil && hits() == 0 {
				t.Error("the fault was not met")
			}
		})
	}
}

// A letter is part of the transaction, and so is what comes before and after
// it.
func TestTransformLetters(t *testing.T) {
	w := newWorld(t, 1)
	w.feed(30, 3)
	var tries atomic.Int32
	cfg := w.transformConfig()
	cfg.Attempts = 3
	cfg.Transform = func(ctx context.Context, ev consumer.Event) ([]*kgo.Record, error) {
		switch string(ev.Payload) {
		case "5":
			tries.Add(1)
			return nil, errNotYet
		case "6":
			return nil, consumer.Permanent(errNotYet)
		case "7":
			panic("oh")
		case "8":
			return nil, consumer.ErrSkip
		}
		return double(ctx, ev)
	}
	w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.TransactionAbortable, Count: 1})
	m := w.start(cfg)
	got := w.outputs(26)
	letters := w.read(dead, 3)
	w.awaitMetric("outbox_consumer_dead_letters_total", nil, 3)
	if err := m.stop(); err != nil {
		t.Error(err)
	}
	if len(got) != 26 || got[5] != "9" {
		t.Errorf("%v", got)
	}
	if tries.Load() != 6 { // the first transaction was aborted
		t.Errorf("%d attempts", tries.Load())
	}
	l, err := dlq.Parse(letters[0])
	if err != nil {
		t.Fatal(err)
	}
	if l.ID() != "id-5" || l.Group != group || l.Topic != events || l.SourceOffset != 5 || header(letters[0], consumer.HeaderOrigin) != events+"/0/5" {
		t.Errorf("%+v", l)
	}
}

// Members that come and go double nothing and lose nothing.
func TestTransformRebalance(t *testing.T) {
	w := newWorld(t, 4)
	const n = 800
	feed := func(from, to int) {
		var recs []*kgo.Record
		for i := from; i < to; i++ {
			recs = append(recs, event(int32(i%4), "k"+strconv.Itoa(i%12), i))
		}
		w.produce(recs...)
	}
	cfg := w.transformConfig()
	cfg.Registerer = nil
	feed(0, n/2)
	first := w.start(cfg)
	w.read("out", 50)
	w.start(cfg)
	feed(n/2, n)
	w.read("out", n/2)
	if err := first.stop(); err != nil {
		t.Error(err)
	}
	w.start(cfg)
	out := w.read("out", n)
	last := map[string]int{}
	for _, r := range out {
		i, _ := strconv.Atoi(string(r.Value))
		if prev, ok := last[string(r.Key)]; ok && i <= prev {
			t.Errorf("%s: %d after %d", r.Key, i, prev)
		}
		last[string(r.Key)] = i
	}
	if len(out) != n {
		t.Errorf("%d records for %d events", len(out), n)
	}
}

func TestTransformGivesUpWithoutLetters(t *testing.T) {
	w := newWorld(t, 1)
	w.feed(10, 1)
	cfg := w.transformConfig()
	cfg.DeadLetterTopic, cfg.Attempts = "", 2
	cfg.Transform = func(ctx context.Context, ev consumer.Event) ([]*kgo.Record, error) {
		if string(ev.Payload) == "4" {
			return nil, errNotYet
		}
		return double(ctx, ev)
	}
	var gaveUp *consumer.GaveUpError
	if err := w.start(cfg).wait(); !errors.As(err, &gaveUp) || gaveUp.Offset != 4 {
		t.Errorf("Run returned %v", err)
	}
	if at, _ := w.committed(events, 0); at > 0 {
		t.Errorf("committed %d", at)
	}
}

func TestTransformDrain(t *testing.T) {
	w := newWorld(t, 1)
	cfg := w.transformConfig()
	m := w.start(cfg)
	w.feed(30, 2)
	w.read("out", 5)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := m.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	at, _ := w.committed(events, 0)
	w.produce(event(0, "k", 31))
	if after, _ := w.committed(events, 0); after != at {
		t.Errorf("it went on from %d to %d", at, after)
	}
	m.Resume()
	w.read("out", 31)
}
