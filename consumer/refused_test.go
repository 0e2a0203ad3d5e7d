package consumer_test

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
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

// batchHolds tells whether a request produces a batch of the topic in which the
// text occurs.
func batchHolds(req kmsg.Request, texts ...string) bool {
	p, ok := req.(*kmsg.ProduceRequest)
	if !ok {
		return false
	}
	for _, t := range p.Topics {
		for _, part := range t.Partitions {
			for _, text := range texts {
				if bytes.Contains(part.Records, []byte(text)) {
					return true
				}
			}
		}
	}
	return false
}

// An event whose results are refused for good becomes a letter, in one
// transaction with its offset; all others of the poll come out once and in
// order.
func TestTransformRefusedResults(t *testing.T) {
	const poison = "poisoned"
	for name, tc := range map[string]struct {
		err    *kerr.Error // of a broker
		result kgo.Record
		says   string
	}{
		"too large for the client": {nil, kgo.Record{Topic: "out", Value: bytes.Repeat([]byte("x"), 2_000_000)}, "MESSAGE_TOO_LARGE"},
		"too large for the topic":  {kerr.MessageTooLarge, kgo.Record{Topic: "out", Value: []byte(poison)}, "MESSAGE_TOO_LARGE"},
		"invalid record":           {kerr.InvalidRecord, kgo.Record{Topic: "out", Value: []byte(poison)}, "INVALID_RECORD"},
		"invalid timestamp":        {kerr.InvalidTimestamp, kgo.Record{Topic: "out", Value: []byte(poison)}, "INVALID_TIMESTAMP"},
		"no topic":                 {nil, kgo.Record{Value: []byte("x")}, "names no topic"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			const n = 30
			want := w.feed(n, 3)
			if tc.err != nil {
				w.cluster.Fault(kfake.Fault{
					Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: tc.err, Count: -1,
					When: func(req kmsg.Request) bool { return batchHolds(req, poison) },
				})
			}
			cfg := w.transformConfig()
			cfg.Client = append(cfg.Client, kgo.ProducerBatchCompression(kgo.NoCompression()))
			cfg.Transform = func(ctx context.Context, ev consumer.Event) ([]*kgo.Record, error) {
				out, err := double(ctx, ev)
				if v := string(ev.Payload); v == "5" || v == "25" {
					r := tc.result
					r.Key = ev.Key
					out = []*kgo.Record{out[0], &r}
					if v == "25" { // several of one event
						more := r
						out = append(out, &more)
					}
				}
				return out, err
			}
			m := w.start(cfg)
			got := w.outputs(n - 2)
			letters := w.read(dead, 2)
			w.awaitMetric("outbox_consumer_handled_total", nil, n-2)
			w.awaitMetric("outbox_consumer_dead_letters_total", nil, 2)
			if err := m.stop(); err != nil {
				t.Error(err)
			}
			want = slices.DeleteFunc(want, func(v string) bool { return v == "5" || v == "25" })
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if at, _ := w.committed(events, 0); at != n {
				t.Errorf("committed %d", at)
			}
			for i, id := range []string{"id-5", "id-25"} {
				l, err := dlq.Parse(letters[i])
				if err != nil {
					t.Fatal(err)
				}
				if l.ID() != id || l.Reason != dlq.Handler || l.Code != "OBX-2205" || l.Group != group || !strings.Contains(l.Message, tc.says) {
					t.Errorf("%+v", l)
				}
			}
		})
	}
}

// Of several partitions, and with events refused in each, the others come out
// once and in the order of their keys.
func TestTransformRefusedOfMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4)
	const n = 200
	var recs []*kgo.Record
	refuse := map[string]bool{}
	for i := range n {
		recs = append(recs, event(int32(i%4), "k"+strconv.Itoa(i%12), i))
		if i%23 == 5 {
			refuse[strconv.Itoa(i)] = true
		}
	}
	w.produce(recs...)
	cfg := w.transformConfig()
	cfg.Concurrency, cfg.MaxInFlight = 3, 100
	cfg.Transform = func(ctx context.Context, ev consumer.Event) ([]*kgo.Record, error) {
		out, err := double(ctx, ev)
		if refuse[string(ev.Payload)] {
			out[0].Value = bytes.Repeat([]byte("x"), 2_000_000)
		}
		return out, err
	}
	m := w.start(cfg)
	out := w.read("out", n-len(refuse))
	letters := w.read(dead, len(refuse))
	w.awaitMetric("outbox_consumer_handled_total", nil, float64(n-len(refuse)))
	if err := m.stop(); err != nil {
		t.Error(err)
	}
	last := map[string]int{}
	for _, r := range out {
		i, _ := strconv.Atoi(string(r.Value))
		if prev, ok := last[string(r.Key)]; ok && i <= prev {
			t.Errorf("%s: %d after %d", r.Key, i, prev)
		}
		last[string(r.Key)] = i
	}
	for _, r := range letters {
		if v := string(r.Value); !refuse[v] {
			t.Errorf("a letter, or a second one, of %s", v)
		} else {
			delete(refuse, v)
		}
	}
}

// Results that are refused together and taken one by one make no letters.
func TestTransformRefusedBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	const n = 30
	want := w.feed(n, 3)
	w.cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.MessageTooLarge, Count: -1,
		When: func(req kmsg.Request) bool { return batchHolds(req, "first-5") && batchHolds(req, "second-5") },
	})
	cfg := w.transformConfig()
	cfg.Client = append(cfg.Client, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(20*time.Millisecond))
	cfg.Transform = func(ctx context.Context, ev consumer.Event) ([]*kgo.Record, error) {
		return []*kgo.Record{
			{Topic: "out", Key: []byte("first-" + string(ev.Payload)), Value: ev.Payload},
			{Topic: "out", Key: []byte("second-" + string(ev.Payload)), Value: ev.Payload},
		}, nil
	}
	w.start(cfg)
	got := w.outputs(2 * n)
	var twice []string
	for _, v := range want {
		twice = append(twice, v, v)
	}
	if diff := cmp.Diff(twice, got); diff != "" {
		t.Error(diff)
	}
	w.awaitMetric("outbox_consumer_dead_letters_total", nil, 0)
}

// A letter that the topic of letters finds too large is made smaller.
func TestTransformRefusedLetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	big := event(0, "k", 1)
	big.Value = bytes.Repeat([]byte("payload-"), 40_000)
	w.produce(event(0, "k", 0), big, event(0, "k", 2))
	w.cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: dead, Err: kerr.MessageTooLarge, Count: -1,
		When: func(req kmsg.Request) bool { return batchHolds(req, "payload-payload-") },
	})
	cfg := w.transformConfig()
	cfg.Client = append(cfg.Client, kgo.ProducerBatchCompression(kgo.NoCompression()))
	cfg.Transform = func(ctx context.Context, ev consumer.Event) ([]*kgo.Record, error) {
		if ev.ID == "id-1" {
			return nil, consumer.Permanent(errNotYet)
		}
		return double(ctx, ev)
	}
	w.start(cfg)
	if diff := cmp.Diff([]string{"0", "2"}, w.outputs(2)); diff != "" {
		t.Error(diff)
	}
	l, err := dlq.Parse(w.read(dead, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	if l.ID() != "id-1" || l.Code != "OBX-2201" || !l.Omitted.Payload {
		t.Errorf("%+v", l)
	}
}
