package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
)

// endPoll is how often the group's offsets are asked for. They are committed
// once a second at most.
const endPoll = 200 * time.Millisecond

// coordinatorWait is as long as the client tries other requests again.
const coordinatorWait = 30 * time.Second

// end knows up to where a group has to commit in order to have done everything
// that was in its topics at a moment.
type end struct {
	group   string
	adm     *kadm.Client
	targets kadm.Offsets // of the partitions that are not done
}

// findEnd looks where the topics end now: behind the last record that is
// committed, markers of transactions included. The consumer commits past those
// too, or a topic that ends with one would never be done.
func findEnd(ctx context.Context, cfg consumer.Config) (_ *end, err error) {
	cl, err := kgo.NewClient(cfg.Client...)
	if err != nil {
		return nil, fmt.Errorf("make Kafka client: %w", err)
	}
	e := &end{group: cfg.Group, adm: kadm.NewClient(cl), targets: kadm.Offsets{}}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	starts, err := e.adm.ListStartOffsets(ctx, cfg.Topics...)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask where the topics begin: %w", err)
	}
	// Of kadm's two meanings of committed this is that of transactions.
	ends, err := e.adm.ListCommittedOffsets(ctx, cfg.Topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask where the topics end: %w", err)
	}
	committed, err := e.committedSoon(ctx)
	if err != nil {
		return nil, err
	}
	ends.Each(func(o kadm.ListedOffset) {
		from := int64(0)
		if s, ok := starts.Lookup(o.Topic, o.Partition); ok {
			from = s.Offset
		}
		if c, ok := committed.Lookup(o.Topic, o.Partition); ok {
			from = max(from, c.At)
		}
		if from < o.Offset {
			e.targets.AddOffset(o.Topic, o.Partition, o.Offset, -1)
		}
	})
	return e, nil
}

// committedSoon waits for the coordinator. In a cluster that never had a group
// there is none at first: the question makes Kafka create the topic of groups,
// and until that has a leader the answer is COORDINATOR_NOT_AVAILABLE.
func (e *end) committedSoon(ctx context.Context) (kadm.OffsetResponses, error) {
	for deadline := time.Now().Add(coordinatorWait); ; {
		offsets, err := e.committed(ctx)
		if !kerr.IsRetriable(err) || time.Now().After(deadline) {
			return offsets, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(endPoll):
		}
	}
}

func (e *end) committed(ctx context.Context) (kadm.OffsetResponses, error) {
	offsets, err := e.adm.FetchOffsets(ctx, e.group)
	if err == nil {
		err = offsets.Error()
	}
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil, nil // it is new
	}
	if err != nil {
		return nil, fmt.Errorf("ask what group %s has committed: %w", e.group, err)
	}
	return offsets, nil
}

// reached tells whether there was nothing to do at all.
func (e *end) reached() bool { return len(e.targets) == 0 }

// await returns when the group has committed as far as it has to.
func (e *end) await(ctx context.Context) error {
	tick := time.NewTicker(endPoll)
	defer tick.Stop()
	for {
		committed, err := e.committed(ctx)
		if err == nil && e.passed(committed) {
			return nil
		}
		// An error is no end: the consumer too is waiting for Kafka.
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func (e *end) passed(committed kadm.OffsetResponses) bool {
	all := true
	e.targets.Each(func(o kadm.Offset) {
		c, ok := committed.Lookup(o.Topic, o.Partition)
		all = all && ok && c.At >= o.At
	})
	return all
}

func (e *end) close() { e.adm.Close() }
