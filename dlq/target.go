package dlq

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/outbox"
)

const (
	// defaultMaxMessageBytes is Kafka's, for where its setting may not be read.
	defaultMaxMessageBytes = 1048588
	// maxBatchBytes stays below the client's limit for a whole request.
	maxBatchBytes = 96 << 20
)

// targets knows the topics that letters are sent to, for one session. batchLimit
// is asked by the client's own goroutines.
type targets struct {
	adm    *kadm.Client
	denied []string

	mu    sync.RWMutex
	known map[string]target
}

type target struct {
	partitions int
	maxBytes   int
	no         *fault.Error // why nothing can be sent there
}

func newTargets(denied []string) *targets {
	return &targets{denied: denied, known: map[string]target{}}
}

// check tells whether a topic takes a record. The first error is about the
// record, the second says that nothing was learned.
func (t *targets) check(ctx context.Context, rec *kgo.Record, partition outbox.Partition) (no *fault.Error, err error) {
	if !legal(rec.Topic) {
		return fault.New(fault.RowTopic, "topic %.300q", rec.Topic).WithFix("outbox-relay dlq replay --to <topic> <id>"), nil
	}
	if strings.HasPrefix(rec.Topic, "__") || slices.Contains(t.denied, rec.Topic) {
		return fault.New(fault.RowTopicDenied, "topic %.300q is not for events", rec.Topic).
			WithFix("outbox-relay dlq replay --to <topic> <id>"), nil
	}
	to, err := t.get(ctx, rec.Topic)
	switch {
	case err != nil:
		return nil, err
	case to.no != nil:
		return to.no, nil
	}
	if n, ok := partition.Get(); ok && int(n) >= to.partitions {
		return fault.New(fault.RowPartition, "topic %s has %d partitions, and partition %d was asked for", rec.Topic, to.partitions, n), nil
	}
	if size := batchSize(rec); size > min(to.maxBytes, maxBatchBytes) {
		return fault.New(fault.RowTooLarge, "%d bytes, and topic %s takes %d", size, rec.Topic, to.maxBytes), nil
	}
	return nil, nil
}

// CheckTo tells whether letters may be sent to a topic at all, whatever they
// are.
func (r *Replayer) CheckTo(topic string) error {
	switch {
	case !legal(topic):
		return fault.New(fault.CommandLine, "--to=%.300q is no name of a topic", topic).WithWhy("%s", fault.RowTopic.Fix).WithFix("outbox-relay dlq replay --to <topic> <id>")
	case strings.HasPrefix(topic, "__") || slices.Contains(r.Denied, topic):
		return fault.New(fault.CommandLine, "--to=%.300q is not for events", topic).WithWhy("it belongs to Kafka or to the relay itself").WithFix("outbox-relay dlq replay --to <topic> <id>")
	}
	return nil
}

// legal tells whether Kafka allows the name of a topic.
func legal(name string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return name != "" && name != "." && name != ".." && len(name) <= 249 && strings.Trim(name, allowed) == ""
}

func (t *targets) get(ctx context.Context, name string) (target, error) {
	t.mu.RLock()
	to, ok := t.known[name]
	t.mu.RUnlock()
	if ok {
		return to, nil
	}
	to, err := t.describe(ctx, name)
	if err != nil {
		return to, err
	}
	t.mu.Lock()
	t.known[name] = to
	t.mu.Unlock()
	return to, nil
}

// refuse remembers that a topic takes nothing.
func (t *targets) refuse(name string, no *fault.Error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known[name] = target{no: no}
}

// batchLimit is what the client is told: the number that check compares with.
func (t *targets) batchLimit(name string) int32 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n := t.known[name].maxBytes; n > 0 {
		return int32(min(max(n, 512), maxBatchBytes))
	}
	return defaultMaxMessageBytes
}

func (t *targets) describe(ctx context.Context, name string) (target, error) {
	// Asking for rights too makes the client ask a broker, not its memory.
	topics, err := t.adm.ListTopics(kadm.WithAuthorizedOps(ctx), name)
	if err != nil {
		return target{}, kafka.Classify("look up topic "+name, err)
	}
	d, ok := topics[name]
	if err = d.Err; !ok {
		err = kerr.UnknownTopicOrPartition
	}
	switch {
	case err == nil:
	case refused(err):
		return target{no: fault.As(kafka.Classify("look up topic "+name, err))}, nil
	default:
		return target{}, kafka.Classify("look up topic "+name, err)
	}
	if ops := d.AuthorizedOperations; len(ops) > 0 && !slices.Contains(ops, kmsg.ACLOperationWrite) && !slices.Contains(ops, kmsg.ACLOperationAll) {
		return target{no: fault.New(fault.KafkaDenied, "write to topic %s", name)}, nil
	}
	to := target{partitions: len(d.Partitions), maxBytes: defaultMaxMessageBytes}
	configs, err := t.adm.DescribeTopicConfigs(ctx, name)
	if denied := (*kadm.AuthError)(nil); errors.As(err, &denied) {
		return to, nil
	}
	if err != nil {
		return target{}, kafka.Classify("describe topic "+name, err)
	}
	for _, rc := range configs {
		for _, kv := range rc.Configs {
			if kv.Key != "max.message.bytes" || kv.Value == nil {
				continue
			}
			if to.maxBytes, err = strconv.Atoi(*kv.Value); err != nil {
				return target{}, fault.Wrap(err, fault.KafkaSetting, "max.message.bytes of topic %s", name)
			}
		}
	}
	return to, nil
}

// batchSize is the length of a batch that holds a record alone, uncompressed,
// which is what the client compares with its limit.
func batchSize(r *kgo.Record) int {
	n := 3 + kbytes(len(r.Key)) + kbytes(len(r.Value)) + uvarint(len(r.Headers))
	for i := range r.Headers {
		n += kbytes(len(r.Headers[i].Key)) + kbytes(len(r.Headers[i].Value))
	}
	const batch = 61 + 4 // and the length before it in a request
	return batch + uvarint(n) + n
}

func kbytes(n int) int { return uvarint(n) + n }

// uvarint is the length of a number that is not negative, in zigzag form.
func uvarint(n int) int { return (bits.Len64(uint64(n)<<1|1) + 6) / 7 }
