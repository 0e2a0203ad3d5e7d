package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
)

// endPoll is how often the group's offsets are asked for. They are committed
// once a second at most.
const endPoll = 200 * time.Millisecond

// end knows up to where a group has to commit in order to have done everything
// that was in its topics at a moment.
type end struct {
	group   string
	adm     *kadm.Client
	targets kadm.Offsets // the offset behind the last record of each partition
}

// findEnd looks where the topics end now. The offset of a partition's end is
// no target: behind its last record stand the markers of transactions, which
// nobody commits. So the last record itself is looked for, backwards.
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
	// What is committed now; records of open transactions come after it.
	ends, err := e.adm.ListCommittedOffsets(ctx, cfg.Topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask where the topics end: %w", err)
	}
	committed, err := e.committed(ctx)
	if err != nil {
		return nil, err
	}
	var last error
	ends.Each(func(o kadm.ListedOffset) {
		from := int64(0)
		if s, ok := starts.Lookup(o.Topic, o.Partition); ok {
			from = s.Offset
		}
		if c, ok := committed.Lookup(o.Topic, o.Partition); ok {
			from = max(from, c.At)
		}
		if last != nil || from >= o.Offset {
			return
		}
		target, err := lastRecord(ctx, cfg.Client, o.Topic, o.Partition, from, o.Offset)
		if last = err; err == nil && target >= from {
			e.targets.AddOffset(o.Topic, o.Partition, target+1, -1)
		}
	})
	if last != nil {
		return nil, last
	}
	return e, nil
}

// lastRecord returns the offset of the last record in [from, to) that a
// read_committed consumer gets, or one below from if there is none. It reads
// windows that double, from the end.
func lastRecord(ctx context.Context, opts []kgo.Opt, topic string, partition int32, from, to int64) (int64, error) {
	for window := int64(64); ; window *= 2 {
		begin := max(from, to-window)
		at, err := lastIn(ctx, opts, topic, partition, begin, to)
		if err != nil || at >= begin || begin == from {
			return at, err
		}
	}
}

func lastIn(ctx context.Context, opts []kgo.Opt, topic string, partition int32, begin, to int64) (int64, error) {
	cl, err := kgo.NewClient(append(slices.Clone(opts),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(begin)}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Markers show that the window has been passed even if it holds nothing else.
		kgo.KeepControlRecords())...)
	if err != nil {
		return 0, fmt.Errorf("make Kafka client: %w", err)
	}
	defer cl.Close()
	last := begin - 1
	for seen := begin - 1; seen < to-1; {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return 0, context.Cause(ctx)
		}
		var failed error
		fetches.EachError(func(_ string, _ int32, err error) { failed = err })
		if failed != nil && !kerr.IsRetriable(failed) {
			return 0, fmt.Errorf("read the end of %s/%d: %w", topic, partition, failed)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			seen = max(seen, r.Offset)
			if !r.Attrs.IsControl() && r.Offset < to {
				last = max(last, r.Offset)
			}
		})
	}
	return last, nil
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
