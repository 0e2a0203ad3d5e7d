package consumer_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/outbox"
)

type aroundKey struct{}

// Around is there at each call, with what the record carries, and is told how each ends.
func TestAround(t *testing.T) {
	for _, transform := range []bool{false, true} {
		w := newWorld(t, 1)
		const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		w.produce(event(0, "k", 1, kgo.RecordHeader{Key: outbox.HeaderTraceParent, Value: []byte(parent)}), event(0, "k", 2), event(0, "k", 3))
		var (
			mu    sync.Mutex
			calls []string
			done  = make(chan struct{})
		)
		cfg := w.config()
		cfg.Attempts = 2
		cfg.Around = func(ctx context.Context, ev *consumer.Event) (context.Context, func(error)) {
			name := string(ev.Payload)
			if name == "1" && ev.TraceParent != parent {
				t.Errorf("the context of the record is %q", ev.TraceParent)
			}
			return context.WithValue(ctx, aroundKey{}, name), func(err error) {
				mu.Lock()
				defer mu.Unlock()
				what := "done"
				if stack := (*consumer.PanicError)(nil); errors.As(err, &stack) {
					what = "panic"
				} else if err != nil {
					what = err.Error()
				}
				if calls = append(calls, name+" "+what); len(calls) == 4 {
					close(done)
				}
			}
		}
		handle := func(ctx context.Context, ev consumer.Event) error {
			if got := ctx.Value(aroundKey{}); got != string(ev.Payload) {
				t.Errorf("the call of %s has the context of %v", ev.Payload, got)
			}
			switch {
			case string(ev.Payload) == "2" && ev.Attempt == 1:
				return errors.New("not yet")
			case string(ev.Payload) == "3":
				panic("no")
			}
			return nil
		}
		if transform {
			cfg.Transform = func(ctx context.Context, ev consumer.Event) ([]*kgo.Record, error) { return nil, handle(ctx, ev) }
			cfg.TransactionalID = "billing"
		} else {
			cfg.Handler = handle
		}
		m := w.start(cfg)
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Error("not every call was told of")
		}
		mu.Lock()
		if diff := cmp.Diff([]string{"1 done", "2 not yet", "2 done", "3 panic"}, calls[:min(len(calls), 4)]); diff != "" {
			t.Error(diff)
		}
		mu.Unlock()
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	}
}
