package sink

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
)

// explicit carries the partition that a row asks for, in the one field of a
// record that the client leaves alone when it is set. Record.Partition will
// not do: the client overwrites it when it produces, so a record produced a
// second time, after an abort, would seem to ask for what it got the first
// time; and its zero value is a partition.
type explicit struct {
	context.Context
	partition int32
}

// SetPartition makes a record ask for a partition, as [Partitioner] reads it.
func SetPartition(r *kgo.Record, n int32) {
	r.Context = explicit{context.Background(), n}
	r.Partition = n
}

// ExplicitPartition returns the partition that a record asks for, if any.
func ExplicitPartition(r *kgo.Record) (int32, bool) {
	e, ok := r.Context.(explicit)
	return e.partition, ok
}

// Partitioner places a record where it asks to be, else by its key with
// murmur2 as the Java client does, else, without a key, in turn.
func Partitioner() kgo.Partitioner { return partitioner{kgo.StickyKeyPartitioner(nil)} }

type partitioner struct{ byKey kgo.Partitioner }

// ForTopic implements kgo.Partitioner.
func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return &topicPartitioner{byKey: p.byKey.ForTopic(topic)}
}

// topicPartitioner does not have the method OnNewBatch, on purpose: with it
// the client holds a lock while it buffers and asks twice at each new batch,
// for the sake of records without keys, and all but a few letters have one.
type topicPartitioner struct {
	byKey kgo.TopicPartitioner
	next  int
}

// RequiresConsistency keeps a key on its partition while that is unavailable:
// the order of the key depends on it.
func (p *topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	if r.Key != nil {
		return true
	}
	_, ok := ExplicitPartition(r)
	return ok
}

// Partition implements kgo.TopicPartitioner.
func (p *topicPartitioner) Partition(r *kgo.Record, n int) int {
	if n, ok := ExplicitPartition(r); ok {
		return int(n)
	}
	if r.Key != nil {
		return p.byKey.Partition(r, n)
	}
	p.next++
	return p.next % n
}
