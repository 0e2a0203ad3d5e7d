package verify

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// patience is how long a reader that is not at its end waits for more. A
// broker that answers does so at once.
const patience = 15 * time.Second

// bounds are the offsets of one partition.
type bounds struct {
	topic          string
	partition      int32
	start, lso, hw int64
}

// readBounds lists the partitions of topics in order; a topic that does not
// exist has none.
func readBounds(ctx context.Context, opts []kgo.Opt, topics ...string) ([]bounds, error) {
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("open client: %w", err)
	}
	defer cl.Close()
	return boundsOf(ctx, cl, topics...)
}

func boundsOf(ctx context.Context, cl *kgo.Client, topics ...string) ([]bounds, error) {
	adm := kadm.NewClient(cl)
	var all []bounds
	// The stable end first: the markers of all that lies below it are then
	// below the high watermark.
	stable, err := list(ctx, adm.ListCommittedOffsets, topics)
	if err != nil {
		return nil, err
	}
	ends, err := list(ctx, adm.ListEndOffsets, topics)
	if err != nil {
		return nil, err
	}
	starts, err := list(ctx, adm.ListStartOffsets, topics)
	if err != nil {
		return nil, err
	}
	for key, hw := range ends {
		all = append(all, bounds{key.topic, key.partition, starts[key], stable[key], hw})
	}
	slices.SortFunc(all, func(a, b bounds) int {
		return cmp.Or(cmp.Compare(slices.Index(topics, a.topic), slices.Index(topics, b.topic)), cmp.Compare(a.partition, b.partition))
	})
	return all, nil
}

type partitionKey struct {
	topic     string
	partition int32
}

func list(ctx context.Context, ask func(context.Context, ...string) (kadm.ListedOffsets, error), topics []string) (map[partitionKey]int64, error) {
	listed, err := ask(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	found := map[partitionKey]int64{}
	listed.Each(func(o kadm.ListedOffset) {
		switch {
		case errors.Is(o.Err, kerr.UnknownTopicOrPartition):
		case o.Err != nil:
			err = fmt.Errorf("list offsets of %s/%d: %w", o.Topic, o.Partition, o.Err)
		default:
			found[partitionKey{o.Topic, o.Partition}] = o.Offset
		}
	})
	return found, err
}

// drain reads partitions from their start until for each of them the record at
// offset last, or one behind it, has been taken. Markers are given to take as
// well. It returns false if the broker had no more to give before that.
func drain(ctx context.Context, opts []kgo.Opt, level kgo.IsolationLevel, all []bounds, last func(bounds) int64, take func(*kgo.Record)) (bool, error) {
	from := map[string]map[int32]kgo.Offset{}
	missing := map[partitionKey]int64{}
	for _, b := range all {
		if end := last(b); end >= b.start {
			missing[partitionKey{b.topic, b.partition}] = end
			if from[b.topic] == nil {
				from[b.topic] = map[int32]kgo.Offset{}
			}
			from[b.topic][b.partition] = kgo.NewOffset().At(b.start)
		}
	}
	if len(missing) == 0 {
		return true, nil
	}
	cl, err := kgo.NewClient(append(slices.Clone(opts),
		kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(level), kgo.KeepControlRecords(),
		kgo.FetchMaxWait(500*time.Millisecond))...)
	if err != nil {
		return false, fmt.Errorf("open reader: %w", err)
	}
	defer cl.Close()
	for len(missing) > 0 {
		poll, cancel := context.WithTimeout(ctx, patience)
		fetches := cl.PollFetches(poll)
		stalled := poll.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if stalled && fetches.NumRecords() == 0 {
			return false, nil
		}
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return false, fmt.Errorf("read %s/%d: %w", e.Topic, e.Partition, e.Err)
			}
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			key := partitionKey{p.Topic, p.Partition}
			for _, rec := range p.Records {
				if end, ok := missing[key]; ok && rec.Offset >= end {
					delete(missing, key)
				}
				take(rec)
			}
		})
	}
	return true, nil
}

// marker reads a control record: the fate of what its producer has written to
// the partition since its last marker.
func marker(rec *kgo.Record) (Fate, bool) {
	if !rec.Attrs.IsControl() || len(rec.Key) < 4 {
		return 0, false
	}
	switch binary.BigEndian.Uint16(rec.Key[2:]) {
	case 0:
		return Abort, true
	case 1:
		return Commit, true
	}
	return 0, false
}

// settler follows the transactions of one partition.
type settler struct{ pending map[int64][]int } // by producer: indexes of records

// add notes record i; its fate is Open until the producer's marker.
func (s *settler) add(rec *kgo.Record, i int) Fate {
	if !rec.Attrs.IsTransactional() {
		return NoTransaction
	}
	if s.pending == nil {
		s.pending = map[int64][]int{}
	}
	s.pending[rec.ProducerID] = append(s.pending[rec.ProducerID], i)
	return Open
}

// settle returns the records that a marker decides.
func (s *settler) settle(rec *kgo.Record) []int {
	decided := s.pending[rec.ProducerID]
	delete(s.pending, rec.ProducerID)
	return decided
}
