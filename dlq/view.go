package dlq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// View reads the topic of letters and what became of them. Letters are passed
// by and not kept; marks are kept, in short. Both are read on from where the
// last reading ended. It is for one goroutine.
type View struct {
	Topic string
	// Options make one client, and are made anew for each: what is in them
	// (metrics, compression) is the client's own. No consumer options.
	Options func() ([]kgo.Opt, error)

	marks   marks
	marksAt map[int32]int64 // read up to
	newest  map[int32]int64 // highest offset of a letter that a mark names
}

func (v *View) client(more ...kgo.Opt) (*kgo.Client, error) {
	opts, err := v.Options()
	if err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(append(opts[:len(opts):len(opts)], more...)...)
	if err != nil {
		return nil, fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	return cl, nil
}

func (v *View) scan(ctx context.Context, topic string, from, to map[int32]int64, fn func(*kgo.Record) error) error {
	opts, err := v.Options()
	if err != nil {
		return err
	}
	return scan(ctx, opts, topic, from, to, fn)
}

// Item is a letter as it is met in its topic.
type Item struct {
	Letter
	Where  Spot
	Status Status
	Size   int // of key, value and headers
	gone   bool
}

// Letters shows every letter that can be seen now, in the order of its topic,
// with what had become of it when the reading began. What fn returns ends the
// reading. A record that is no letter is told to bad, and passed over.
//
// It begins at the beginning whatever is looked for: the timestamp of a letter
// is that of its event, so no look-up by time finds where the letters of a day
// begin.
func (v *View) Letters(ctx context.Context, fn func(*Item) error, bad func(Spot, error)) error {
	return v.lettersFrom(ctx, map[int32]int64{}, fn, bad)
}

// lettersFrom reads on from given offsets, and moves them.
func (v *View) lettersFrom(ctx context.Context, from map[int32]int64, fn func(*Item) error, bad func(Spot, error)) error {
	cl, err := v.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	// What is behind somebody's open transaction is not waited for.
	to, err := stableEnds(ctx, adm, StateTopic(v.Topic))
	if err != nil {
		return err
	}
	if err := v.readMarks(ctx, to); err != nil {
		return err
	}
	// Asked for behind the marks: every letter that they name is below it.
	if err := v.checkAhead(ctx, adm); err != nil {
		return err
	}
	if to, err = stableEnds(ctx, adm, v.Topic); err != nil {
		return err
	}
	err = v.scan(ctx, v.Topic, from, to, func(r *kgo.Record) error {
		at := Spot{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}
		l, err := Parse(r)
		if err != nil {
			bad(at, err)
			return nil
		}
		return fn(&Item{Letter: l, Where: at, Status: v.marks.of(&l, at), Size: sizeAtMost(r)})
	})
	if err != nil {
		return kafka.Classify("read letters", err)
	}
	maps.Copy(from, to)
	return nil
}

// Fetch reads chosen letters again, whole, in the order of the refs. One that
// is not there any more comes as gone.
func (v *View) Fetch(ctx context.Context, refs []Ref) ([]*Item, error) {
	type spot struct {
		partition int32
		offset    int64
	}
	items, index := make([]*Item, len(refs)), map[spot]int{}
	from, to := map[int32]int64{}, map[int32]int64{}
	for i, r := range refs {
		items[i] = &Item{Where: Spot{Topic: v.Topic, Partition: r.part, Offset: r.offset}, gone: true}
		index[spot{r.part, r.offset}] = i
		if at, ok := from[r.part]; !ok || r.offset < at {
			from[r.part] = r.offset
		}
		to[r.part] = max(to[r.part], r.offset+1)
	}
	err := v.scan(ctx, v.Topic, from, to, func(r *kgo.Record) error {
		i, ok := index[spot{r.Partition, r.Offset}]
		if !ok {
			return nil
		}
		l, err := Parse(r)
		if err != nil {
			return err
		}
		items[i].Letter, items[i].gone = l, false
		return nil
	})
	if err != nil {
		return nil, kafka.Classify("fetch letters", err)
	}
	return items, nil
}

// Marks returns the marks of an event that compaction has left, oldest first.
func (v *View) Marks(ctx context.Context, id string) ([]Mark, error) {
	cl, err := v.client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	to, err := stableEnds(ctx, kadm.NewClient(cl), StateTopic(v.Topic))
	if err != nil {
		return nil, err
	}
	var all []Mark
	err = v.scan(ctx, StateTopic(v.Topic), map[int32]int64{}, to, func(r *kgo.Record) error {
		if r.Value == nil {
			return nil
		}
		m, err := ParseMark(r)
		if err == nil && m.ID == shortID(id) {
			all = append(all, m)
		}
		return err
	})
	return all, kafka.Classify("read what became of letters", err)
}

// readMarks reads the marks on up to given ends.
func (v *View) readMarks(ctx context.Context, to map[int32]int64) error {
	if v.marks == nil {
		v.marks, v.marksAt, v.newest = marks{}, map[int32]int64{}, map[int32]int64{}
	}
	err := v.scan(ctx, StateTopic(v.Topic), v.marksAt, to, func(r *kgo.Record) error {
		if r.Value == nil {
			delete(v.marks, idOf(string(r.Key))) // somebody's decision to forget
			return nil
		}
		m, err := ParseMark(r)
		if err != nil {
			// Without it a letter that was replayed would seem to be open.
			return fault.Wrap(err, fault.MarkUnreadable, "topic %s, partition %d", r.Topic, r.Partition)
		}
		v.marks.set(&m)
		if at, ok := v.newest[m.Letter.Partition]; !ok || m.Letter.Offset > at {
			v.newest[m.Letter.Partition] = m.Letter.Offset
		}
		return nil
	})
	if err != nil {
		return kafka.Classify("read what became of letters", err)
	}
	maps.Copy(v.marksAt, to)
	return nil
}

// settle reads every mark that was committed before the call. Only a fence
// before it makes that all there can be; patience bounds the wait for
// transactions that are open.
func (v *View) settle(ctx context.Context, adm *kadm.Client, patience time.Duration) error {
	to, err := ends(ctx, adm, StateTopic(v.Topic))
	if err != nil {
		return kafka.Classify("read what became of letters", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errStateTimeout)
	defer cancel()
	if err := v.readMarks(ctx, to); err != nil {
		if errors.Is(context.Cause(ctx), errStateTimeout) {
			return fault.Wrap(err, fault.StateTimeout, "topic %s, within %s", StateTopic(v.Topic), patience)
		}
		return err
	}
	return v.checkAhead(ctx, adm)
}

var errStateTimeout = errors.New("the state topic did not become readable in time")

// checkAhead refuses marks for letters that are not there yet: the topic of
// letters was made anew, and its new letters would be taken for the old ones,
// which are closed.
func (v *View) checkAhead(ctx context.Context, adm *kadm.Client) error {
	to, err := ends(ctx, adm, v.Topic)
	if err != nil {
		return kafka.Classify("read letters", err)
	}
	for p, at := range v.newest {
		if at >= to[p] {
			return fault.New(fault.StateAhead, "a mark names letter %d of partition %d, and topic %s ends at %d", at, p, v.Topic, to[p])
		}
	}
	return nil
}

// stableEnds are the ends of what a read_committed reader can see now.
func stableEnds(ctx context.Context, adm *kadm.Client, topic string) (map[int32]int64, error) {
	listed, err := adm.ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, unread(kafka.Classify(fmt.Sprintf("find the end of topic %s", topic), err))
	}
	out := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { out[o.Partition] = o.Offset })
	return out, nil
}

// unread says what helps where the topics of letters cannot be read: they are
// not made by serve, and whoever reads them is not the relay.
func unread(err error) error {
	var f *fault.Error
	if !errors.As(err, &f) {
		return err
	}
	switch f.Code {
	case fault.KafkaTopicMissing:
		return f.WithFix("outbox-relay init creates it; if the relay has run before, check KAFKA_BROKERS, KAFKA_EVENTS_TOPIC and KAFKA_DLQ_TOPIC")
	case fault.KafkaDenied:
		return f.WithFix("grant Read and Describe on the topic of letters and on its state topic: docs/operations.md#rights-in-kafka")
	}
	return err
}
