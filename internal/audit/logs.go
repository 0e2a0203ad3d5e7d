package audit

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/outbox"
)

// bounds are how far one partition is read, and what was seen on the way.
type bounds struct {
	start, from, end int64
	first            time.Time // of the first record at the start of the log; zero: there is none
	last             map[string]place
}

// readTopics reads what the rows belong to, up to the high watermarks of now:
// everything up to the checkpoint is below them.
func (a *audit) readTopics(ctx context.Context) error {
	cl, err := kgo.NewClient(a.cfg.Kafka...)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	defer cl.Close()
	if a.cfg.Router.TopicTemplate == "" {
		if name := a.cfg.Router.EventsTopic; a.topics[name] == nil {
			a.topics[name] = &topic{name: name, log: uint32(len(a.topics) + 1)}
		}
	}
	if a.search != nil {
		for _, name := range a.search.Topics {
			if a.topics[name] == nil && name != a.cfg.Letters {
				a.topics[name] = &topic{name: name, log: uint32(len(a.topics) + 1)}
			}
		}
	}
	a.letters = &topic{name: a.cfg.Letters}
	a.byHash = map[uint64]*topic{}
	for _, t := range a.topics {
		a.byHash[a.store.text(t.name)] = t
	}
	total, err := a.bound(ctx, kadm.NewClient(cl))
	if err != nil {
		return err
	}
	return a.consume(ctx, kadm.NewClient(cl), total)
}

func (a *audit) all() []*topic {
	return append(slices.SortedFunc(maps.Values(a.topics), func(x, y *topic) int { return int(x.log) - int(y.log) }), a.letters)
}

// bound asks where every partition begins and ends. A topic that does not exist
// has none; the report says so.
func (a *audit) bound(ctx context.Context, adm *kadm.Client) (total int64, err error) {
	ask := func(list func(context.Context, ...string) (kadm.ListedOffsets, error), name string, set func(kadm.ListedOffset)) error {
		listed, err := list(ctx, name)
		if err == nil {
			listed.Each(func(o kadm.ListedOffset) {
				switch {
				case errors.Is(o.Err, kerr.UnknownTopicOrPartition):
				case o.Err != nil && err == nil:
					err = o.Err
				case o.Err == nil:
					set(o)
				}
			})
		}
		return kafka.Classify("list the offsets of "+name, err)
	}
	for _, t := range a.all() {
		t.partitions = map[int32]*bounds{}
		err := ask(adm.ListEndOffsets, t.name, func(o kadm.ListedOffset) {
			t.partitions[o.Partition] = &bounds{end: o.Offset, last: map[string]place{}}
		})
		if err != nil {
			return 0, err
		}
		starting := func(o kadm.ListedOffset) {
			if b := t.partitions[o.Partition]; b != nil {
				b.start, b.from = o.Offset, o.Offset
			}
		}
		if err := ask(adm.ListStartOffsets, t.name, starting); err != nil {
			return 0, err
		}
		if !a.cfg.Since.IsZero() {
			after := func(ctx context.Context, names ...string) (kadm.ListedOffsets, error) {
				return adm.ListOffsetsAfterMilli(ctx, a.cfg.Since.UnixMilli(), names...)
			}
			if err := ask(after, t.name, func(o kadm.ListedOffset) {
				if b := t.partitions[o.Partition]; b != nil {
					b.from = max(b.start, o.Offset)
				}
			}); err != nil {
				return 0, err
			}
		}
		for _, b := range t.partitions {
			total += max(0, b.end-b.from)
		}
		t.counts = TopicCount{Topic: t.name, Partitions: len(t.partitions)}
		a.retention(ctx, adm, t)
	}
	return total, nil
}

// retention reads how long a topic keeps records; where that may not be read,
// what the log begins with has to do.
func (a *audit) retention(ctx context.Context, adm *kadm.Client, t *topic) {
	configs, err := adm.DescribeTopicConfigs(ctx, t.name)
	if err != nil {
		return
	}
	for _, rc := range configs {
		for _, kv := range rc.Configs {
			switch kv.Key {
			case "cleanup.policy":
				t.compacted = strings.Contains(kv.MaybeValue(), "compact")
			case "retention.ms":
				if n, err := strconv.ParseInt(kv.MaybeValue(), 10, 64); err == nil && n > 0 && n < int64(time.Duration(1<<62)/time.Millisecond) {
					t.retention = time.Duration(n) * time.Millisecond
				}
			}
		}
	}
}

// What one fetch may bring, compressed; in memory a record is more than ten times
// that. With the client's own limits a million events took 550 MB, with these
// 175 MB, and no longer.
const (
	fetchPartition = 256 << 10
	fetchBytes     = 4 << 20
)

// at names a partition of a topic.
type at struct {
	topic     string
	partition int32
}

// consume reads every partition up to its end. Markers are taken as well: the
// last offset of a log that is written in transactions is one.
func (a *audit) consume(ctx context.Context, adm *kadm.Client, total int64) error {
	left := map[at]*bounds{}
	owner := map[string]*topic{}
	from := map[string]map[int32]kgo.Offset{}
	for _, t := range a.all() {
		owner[t.name] = t
		for p, b := range t.partitions {
			if b.from >= b.end {
				continue
			}
			left[at{t.name, p}] = b
			if from[t.name] == nil {
				from[t.name] = map[int32]kgo.Offset{}
			}
			from[t.name][p] = kgo.NewOffset().At(b.from)
		}
	}
	if len(left) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(append(slices.Clone(a.cfg.Kafka), kgo.ConsumePartitions(from),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(500*time.Millisecond),
		kgo.FetchMaxPartitionBytes(fetchPartition), kgo.FetchMaxBytes(fetchBytes), kgo.MaxConcurrentFetches(1))...)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	defer cl.Close()
	var done, told int64
	fresh := time.Now()
	for len(left) > 0 {
		poll, cancel := context.WithTimeout(ctx, min(a.cfg.Stall, time.Second))
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
		var bad error
		fs.EachPartition(func(p kgo.FetchTopicPartition) {
			key := at{p.Topic, p.Partition}
			b := left[key]
			if b == nil || bad != nil {
				return
			}
			for _, rec := range p.Records {
				if rec.Offset < b.end && !rec.Attrs.IsControl() {
					if bad = a.take(owner[p.Topic], b, rec); bad != nil {
						return
					}
				}
				if rec.Offset >= b.end-1 {
					delete(left, key)
					cl.PauseFetchPartitions(map[string][]int32{p.Topic: {p.Partition}})
					break
				}
			}
			done += int64(len(p.Records))
		})
		if bad != nil {
			return bad
		}
		if done-told >= every {
			told = done
			a.progress("topics", min(done, total), total)
		}
		if time.Since(fresh) > a.cfg.Stall {
			if err := a.stalled(ctx, adm, left); err != nil {
				return err
			}
			fresh = time.Now()
		}
	}
	a.progress("topics", total, total)
	return nil
}

// stalled decides about partitions that give nothing more before their end: a
// transaction may be open there, or what is missing was compacted away.
func (a *audit) stalled(ctx context.Context, adm *kadm.Client, left map[at]*bounds) error {
	for key, b := range left {
		stable, err := adm.ListCommittedOffsets(ctx, key.topic)
		if err != nil {
			return kafka.Classify("list the offsets of "+key.topic, err)
		}
		o, _ := stable.Lookup(key.topic, key.partition)
		if o.Offset < b.end {
			return fault.New(fault.ReadBackTimeout, "wait for offset %d of %s/%d, of which %d is the last that is stable", b.end, key.topic, key.partition, o.Offset)
		}
		delete(left, key)
	}
	return nil
}

// take stores one record.
func (a *audit) take(t *topic, b *bounds, rec *kgo.Record) error {
	if b.from == b.start && b.first.IsZero() {
		b.first = rec.Timestamp
	}
	if rec.Timestamp.Before(a.cfg.Since) {
		return nil
	}
	var e *entry
	if t == a.letters {
		e = a.letter(rec)
	} else {
		e = a.event(t, b, rec)
	}
	if e == nil {
		return nil
	}
	if err := a.store.add(e); err != nil {
		return fault.Wrap(err, fault.Runtime, "write a temporary file")
	}
	return nil
}

// event makes the entry of a record in a topic of events; nil for one that is
// none.
func (a *audit) event(t *topic, b *bounds, rec *kgo.Record) *entry {
	e := &entry{kind: kindEvent, log: t.log, topic: a.store.text(t.name), partition: rec.Partition, offset: rec.Offset}
	source, known := "", false
	for _, h := range rec.Headers {
		switch h.Key {
		case outbox.HeaderID:
			if !known {
				e.id, known = string(h.Value), true
			}
		case outbox.HeaderSource:
			source = string(h.Value)
		case outbox.HeaderReplayed, outbox.HeaderReplayOf:
			e.flags |= replayed
		}
	}
	if !known {
		t.counts.Foreign++
		return nil
	}
	t.counts.Events++
	if e.has(replayed) {
		t.counts.Replays++
	}
	a.hashes(e, rec.Key, rec.Value, rec.Headers)
	p, ok := dlq.PlaceOf(rec.Headers)
	if !ok {
		return e
	}
	e.place = place{p.Timeline, uint64(p.LSN), p.Ordinal}
	if p.Timeline == a.cfg.Timeline && p.LSN >= a.snapshot {
		e.flags |= newer
	}
	a.search.saw(e, p, rec.Headers)
	// A relay writes to a partition in the order of the commits, so the order of
	// each key is that of the partition. Each record is held against the one
	// before it, not against the highest: one that is out of place counts once.
	if !e.has(replayed) {
		if before, seen := b.last[source]; seen && e.place.compare(before) <= 0 {
			e.flags |= late
			e.before = before
		}
		b.last[source] = e.place
	}
	return e
}

// letter makes the entry of a dead letter of the relay; nil for one of a
// consumer, whose event is in its topic as well.
func (a *audit) letter(rec *kgo.Record) *entry {
	t := a.letters
	l, err := dlq.Parse(rec)
	switch {
	case err != nil || l.ID() == "":
		t.counts.Foreign++
		return nil
	case l.Group != "":
		t.counts.ConsumerLetters++
		return nil
	}
	t.counts.Letters++
	e := &entry{kind: kindLetter, id: l.ID(), topic: a.store.text(l.Topic), partition: rec.Partition, offset: rec.Offset}
	a.hashes(e, l.Key, l.Value, l.Headers)
	for flag, left := range map[uint16]bool{
		noValue: l.Omitted.Payload, noKey: l.Omitted.Key, noHeaders: l.Omitted.UserHeaders > 0 || l.Omitted.CutHeaders > 0,
	} {
		if left {
			e.flags |= flag
		}
	}
	if p, ok := dlq.PlaceOf(l.Headers); ok {
		e.place = place{p.Timeline, uint64(p.LSN), p.Ordinal}
		if p.Timeline == a.cfg.Timeline && p.LSN >= a.snapshot {
			e.flags |= newer
		}
		a.search.saw(e, p, rec.Headers)
	}
	return e
}
