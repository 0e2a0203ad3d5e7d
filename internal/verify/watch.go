package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// Watch is a read_committed consumer that goes along with the run and writes
// down what it is shown, in order. Topics may come to exist later.
type Watch struct {
	Kafka  []kgo.Opt // how to reach the cluster
	Topics []string

	count atomic.Int64
	seen  map[partitionKey]*Sighting
}

// Run reads until the context ends, and then returns nil.
func (w *Watch) Run(ctx context.Context) error {
	client, err := kgo.NewClient(append(slices.Clone(w.Kafka),
		kgo.ConsumeTopics(w.Topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(500*time.Millisecond))...)
	if err != nil {
		return fmt.Errorf("open live reader: %w", err)
	}
	defer client.Close()
	w.seen = map[partitionKey]*Sighting{}
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			// The client goes on by itself after all but this, and after this
			// it goes on somewhere else.
			var lost *kgo.ErrDataLoss
			if errors.As(e.Err, &lost) {
				s := w.sighting(e.Topic, e.Partition)
				s.Faults = append(s.Faults, e.Err.Error())
			}
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			s := w.sighting(rec.Topic, rec.Partition)
			s.Offsets = append(s.Offsets, rec.Offset)
			s.IDs = append(s.IDs, idOf(rec).short())
			w.count.Add(1)
		})
	}
	return nil
}

// Count returns how many records have been seen so far; it may be asked while
// Run goes on.
func (w *Watch) Count() int64 { return w.count.Load() }

// Sightings returns what was seen, after Run has returned.
func (w *Watch) Sightings() []Sighting {
	var all []Sighting
	for _, s := range w.seen {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b Sighting) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return all
}

func (w *Watch) sighting(topic string, partition int32) *Sighting {
	key := partitionKey{topic, partition}
	if w.seen[key] == nil {
		w.seen[key] = &Sighting{Topic: topic, Partition: partition}
	}
	return w.seen[key]
}

func idOf(rec *kgo.Record) ID {
	for i := range rec.Headers {
		if rec.Headers[i].Key == outbox.HeaderID {
			return IDOf(string(rec.Headers[i].Value))
		}
	}
	return ID{}
}
