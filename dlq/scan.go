package dlq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ends are the high watermarks of a topic's partitions. A reader that has come
// so far has seen all that was committed when they were asked for: what is
// below them is decided by then, or is waited for.
func ends(ctx context.Context, adm *kadm.Client, topic string) (map[int32]int64, error) {
	listed, err := adm.ListEndOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("find the end of topic %s: %w", topic, err)
	}
	out := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { out[o.Partition] = o.Offset })
	return out, nil
}

// stillAfter is how long a scan without news may take before it asks whether
// there can be any.
const stillAfter = 3 * time.Second

// scan reads the committed records of a topic from given offsets up to given
// ends, and waits for transactions that are open below those. Records of one
// partition come in order. What fn returns ends the scan.
func scan(ctx context.Context, opts []kgo.Opt, topic string, from, to map[int32]int64, fn func(*kgo.Record) error) error {
	at, next, left := map[int32]kgo.Offset{}, map[int32]int64{}, maps.Clone(to)
	for p, end := range to {
		if from[p] < end {
			at[p], next[p] = kgo.NewOffset().At(from[p]), from[p]
		} else {
			delete(left, p)
		}
	}
	if len(left) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), opts...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: at}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// Markers tell how far the reading is where a transaction was aborted.
		kgo.KeepControlRecords(),
		kgo.FetchMaxWait(500*time.Millisecond),
	)...)
	if err != nil {
		return fmt.Errorf("make Kafka client: %w", err)
	}
	defer cl.Close()
	for len(left) > 0 {
		pctx, cancel := context.WithTimeout(ctx, stillAfter)
		fetches := cl.PollFetches(pctx)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var bad error
		fetches.EachError(func(_ string, _ int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) && bad == nil {
				bad = err
			}
		})
		if bad != nil {
			return fmt.Errorf("read topic %s: %w", topic, bad)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end, ok := left[r.Partition]
			if !ok || bad != nil {
				return
			}
			if r.Offset < end && !r.Attrs.IsControl() {
				bad = fn(r)
			}
			if next[r.Partition] = r.Offset + 1; next[r.Partition] >= end {
				delete(left, r.Partition)
			}
		})
		if bad != nil {
			return bad
		}
		if fetches.NumRecords() == 0 {
			// Compaction can leave an end without a record to show for it.
			if err := decided(ctx, cl, topic, next, left); err != nil {
				return err
			}
		}
	}
	return nil
}

// decided drops partitions that hold nothing more below the end that is waited
// for. Time alone is no proof of that, a slow broker looks the same; an answer
// to a fetch that holds no batch is.
func decided(ctx context.Context, cl *kgo.Client, topic string, next, left map[int32]int64) error {
	meta, err := kadm.NewClient(cl).Metadata(ctx, topic)
	if err == nil {
		err = meta.Topics[topic].Err
	}
	if err != nil {
		return fmt.Errorf("find the leaders of topic %s: %w", topic, err)
	}
	for p, end := range left {
		detail := meta.Topics[topic].Partitions[p]
		if detail.Err != nil {
			return fmt.Errorf("find the leader of %s/%d: %w", topic, p, detail.Err)
		}
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.FetchOffset, part.PartitionMaxBytes, part.CurrentLeaderEpoch = p, next[p], 1, -1
		t := kmsg.NewFetchRequestTopic()
		t.Topic, t.TopicID, t.Partitions = topic, meta.Topics[topic].ID, []kmsg.FetchRequestTopicPartition{part}
		req := kmsg.NewPtrFetchRequest()
		req.IsolationLevel, req.MaxBytes, req.Topics = 1, 1, []kmsg.FetchRequestTopic{t}
		resp, err := cl.Broker(int(detail.Leader)).RetriableRequest(ctx, req)
		if err != nil {
			return fmt.Errorf("fetch %s/%d: %w", topic, p, err)
		}
		for _, t := range resp.(*kmsg.FetchResponse).Topics {
			for _, got := range t.Partitions {
				if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
					return fmt.Errorf("fetch %s/%d: %w", topic, p, err)
				}
				at, nothing := emptied(got.RecordBatches, next[p])
				next[p] = max(next[p], at)
				if next[p] >= end || nothing && got.LastStableOffset >= end {
					delete(left, p)
				}
			}
		}
	}
	return nil
}

// emptied steps over batches from which compaction has taken every record: the
// cleaner keeps the last one of a producer, and clients pass it by in silence.
// nothing is that there is no batch at all.
func emptied(raw []byte, at int64) (next int64, nothing bool) {
	nothing = len(raw) == 0
	for len(raw) > 0 {
		var b kmsg.RecordBatch
		if err := b.ReadFrom(raw); err != nil || b.NumRecords > 0 || b.Length <= 0 {
			break // the ordinary reading has it, sooner or later
		}
		at = b.FirstOffset + int64(b.LastOffsetDelta) + 1
		raw = raw[min(len(raw), 12+int(b.Length)):]
	}
	return at, nothing
}
