package explain

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/outbox"
)

// before is how much earlier than the event its record is looked for: clocks
// differ. A record has the time of its row.
const before = 5 * time.Minute

// stall is after how long of nothing a partition counts as read: its last
// offsets may have been compacted away.
const stall = 3 * time.Second

type at struct {
	topic     string
	partition int32
}

// span is what was read of a partition: from its first offset up to the last.
type span struct{ from, to int64 }

// search is one search.
type search struct {
	cfg   Config
	a     Answer
	below string
	done  map[at]span
}

// legalTopic is what Kafka takes as the name of a topic (org.apache.kafka.common.internals.Topic).
var legalTopic = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)

// topics says where the event may be.
func (s *search) topics() {
	add := func(name string) {
		// A row may ask for a topic that cannot be, and has become a letter for it.
		if legalTopic.MatchString(name) && name != "." && name != ".." && !slices.Contains(s.a.Topics, name) {
			s.a.Topics = append(s.a.Topics, name)
		}
	}
	if r := s.a.Row; r != nil && r.topic != "" {
		add(r.topic)
	} else if r != nil && s.cfg.Template != "" {
		add(strings.NewReplacer("${routedByValue}", r.AggregateType, "{aggregatetype}", r.AggregateType, "{type}", r.Type).Replace(s.cfg.Template))
	} else if s.cfg.Template == "" {
		add(s.cfg.Events)
	}
	for _, t := range s.cfg.Topics {
		add(t)
	}
	for _, l := range s.a.Letters {
		for _, m := range l.Marks {
			add(m.Topic)
		}
	}
}

// since is from when on the record is looked for first.
func (s *search) since() time.Time {
	if r := s.a.Row; r != nil && r.CreatedAt != nil {
		return r.CreatedAt.Add(-before)
	}
	// The ids of the library hold the time at which they were made.
	if id, err := uuid.Parse(s.cfg.ID); err == nil && id.Version() == 7 {
		sec, nsec := id.Time().UnixTime()
		return time.Unix(sec, nsec).Add(-before)
	}
	return time.Time{}
}

// kafka reads what was not read before: from the time of the event up to the
// end, and if it is not there, what lies before. It tells whether everything that
// there is could be read.
func (s *search) kafka(ctx context.Context) (complete bool, err error) {
	if len(s.a.Topics) == 0 {
		return true, nil
	}
	cl, err := kgo.NewClient(s.cfg.Kafka...)
	if err != nil {
		return false, fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	starts, err := offsets(ctx, adm.ListStartOffsets, s.a.Topics)
	if err != nil {
		return false, err
	}
	highs, err := offsets(ctx, adm.ListEndOffsets, s.a.Topics)
	if err != nil {
		return false, err
	}
	ends, err := offsets(ctx, adm.ListCommittedOffsets, s.a.Topics)
	if err != nil {
		return false, err
	}
	froms := starts
	if since := s.since(); !since.IsZero() {
		after := func(ctx context.Context, names ...string) (kadm.ListedOffsets, error) {
			return adm.ListOffsetsAfterMilli(ctx, since.UnixMilli(), names...)
		}
		if froms, err = offsets(ctx, after, s.a.Topics); err != nil {
			return false, err
		}
	}
	complete = true
	first, second := map[at]span{}, map[at]span{}
	for key, end := range ends {
		complete = complete && end >= highs[key]
		from := max(starts[key], min(froms[key], end))
		if read, again := s.done[key]; again {
			first[key] = span{read.to, end} // only what is new
			continue
		}
		first[key], second[key] = span{from, end}, span{starts[key], from}
		s.done[key] = span{starts[key], end}
	}
	for _, part := range []map[at]span{first, second} {
		if len(s.a.Records) > 0 {
			return complete, nil
		}
		if err := s.read(ctx, part); err != nil {
			return false, err
		}
	}
	for key, end := range ends {
		s.done[key] = span{s.done[key].from, end}
	}
	return complete, nil
}

// offsets lists one offset of each partition. A topic that does not exist has
// none.
func offsets(ctx context.Context, list func(context.Context, ...string) (kadm.ListedOffsets, error), topics []string) (map[at]int64, error) {
	listed, err := list(ctx, topics...)
	all := map[at]int64{}
	if err == nil {
		listed.Each(func(o kadm.ListedOffset) {
			switch {
			case errors.Is(o.Err, kerr.UnknownTopicOrPartition):
			case o.Err != nil && err == nil:
				err = o.Err
			case o.Err == nil:
				all[at{o.Topic, o.Partition}] = o.Offset
			}
		})
	}
	return all, kafka.Classify("list the offsets of "+strings.Join(topics, ", "), err)
}

// read reads parts of partitions until the event is found.
func (s *search) read(ctx context.Context, parts map[at]span) error {
	left, total := map[at]span{}, int64(0)
	from := map[string]map[int32]kgo.Offset{}
	for key, p := range parts {
		if p.from >= p.to {
			continue
		}
		left[key], total = p, total+p.to-p.from
		if from[key.topic] == nil {
			from[key.topic] = map[int32]kgo.Offset{}
		}
		from[key.topic][key.partition] = kgo.NewOffset().At(p.from)
	}
	if len(left) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(append(slices.Clone(s.cfg.Kafka), kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), kgo.FetchMaxWait(500*time.Millisecond), kgo.FetchMaxPartitionBytes(1<<20), kgo.FetchMaxBytes(8<<20), kgo.MaxConcurrentFetches(2))...)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	defer cl.Close()
	done, fresh := int64(0), time.Now()
	for len(left) > 0 && time.Since(fresh) < stall {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fs := cl.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, e := range fs.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return kafka.Classify("read topic "+e.Topic, e.Err)
			}
		}
		if fs.NumRecords() > 0 {
			fresh = time.Now()
		}
		fs.EachRecord(func(r *kgo.Record) {
			key := at{r.Topic, r.Partition}
			p, wanted := left[key]
			if !wanted {
				return
			}
			done++
			if r.Offset < p.to && !r.Attrs.IsControl() {
				s.take(r)
			}
			if r.Offset >= p.to-1 {
				delete(left, key)
				cl.PauseFetchPartitions(map[string][]int32{r.Topic: {r.Partition}})
			}
		})
		s.cfg.Progress(min(done, total), total)
		if len(s.a.Records) > 0 {
			break
		}
	}
	s.a.Scanned += done
	return nil
}

// take keeps a record of the event.
func (s *search) take(r *kgo.Record) {
	h := map[string]string{}
	for _, x := range r.Headers {
		if _, twice := h[x.Key]; !twice && (x.Key == outbox.HeaderID || strings.HasPrefix(x.Key, outbox.ReservedPrefix)) {
			h[x.Key] = string(x.Value)
		}
	}
	if h[outbox.HeaderID] != s.cfg.ID {
		return
	}
	s.a.Records = append(s.a.Records, Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp.UTC(), LSN: h[outbox.HeaderLSN], XID: h[outbox.HeaderXID],
		CommitTime: h[outbox.HeaderCommitTS], Checkpoint: h[outbox.HeaderCheckpoint], Source: h[outbox.HeaderSource],
		Replayed: h[outbox.HeaderReplayed], Recovered: h[outbox.HeaderRecovered],
	})
}
