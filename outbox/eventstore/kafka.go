package eventstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// KafkaConfig says where a Kafka store keeps its events. Topic, Partitions and
// Opts are needed.
type KafkaConfig struct {
	// Topic holds the events and nothing else. CreateTopic makes it.
	Topic string
	// Partitions is the number that the topic was made with. A stream's
	// partition follows from it, so a topic with another number is refused.
	Partitions int32
	// Opts are brokers, TLS and SASL.
	Opts []kgo.Opt
	// TransactionalID is followed by -<partition>; "" is
	// "eventstore-<topic>". Whoever appends to the topic has to use the same.
	TransactionalID string
	// DuplicateWindow is how many of the newest ids of each partition are
	// remembered; 0 is 100,000, which takes about 10 MB per partition in use.
	DuplicateWindow int
	// MaxStreams is how many streams of each partition are remembered; 0 is
	// 100,000. An append to one that was forgotten reads the partition again.
	MaxStreams int
	// Attempts bounds how often an Append that is fenced by others takes the
	// partition back; 0 is 30.
	Attempts int
	// Timeout bounds one Kafka transaction and its reading back; 0 is 10 s.
	Timeout time.Duration
	// Logger hears of lost leases and of Kafka that cannot be reached; nil is
	// silence.
	Logger *slog.Logger
}

// Kafka is the store that needs no database. It is safe for concurrent use.
type Kafka struct {
	cfg   KafkaConfig
	cl    *kgo.Client // asks for offsets
	adm   *kadm.Client
	lanes []*lane
	log   *slog.Logger
}

const (
	defaultWindow   = 100_000
	defaultStreams  = 100_000
	defaultAttempts = 30
	defaultTimeout  = 10 * time.Second
)

// CreateTopic makes a topic that a Kafka store accepts: nothing in it is ever
// deleted or compacted. A topic that is there is left as it is.
func CreateTopic(ctx context.Context, cl *kgo.Client, topic string, partitions int32, replicas int16) error {
	settings := map[string]*string{
		"cleanup.policy": kadm.StringPtr("delete"), "retention.ms": kadm.StringPtr("-1"), "retention.bytes": kadm.StringPtr("-1"),
	}
	_, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, replicas, settings, topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	return nil
}

// OpenKafka looks at the topic and refuses one that could lose events. The
// store owes a Close.
func OpenKafka(ctx context.Context, cfg KafkaConfig) (*Kafka, error) {
	if cfg.Topic == "" || cfg.Partitions < 1 {
		return nil, errors.New("open event store: it needs a topic and its number of partitions")
	}
	if cfg.TransactionalID == "" {
		cfg.TransactionalID = "eventstore-" + cfg.Topic
	}
	for _, d := range []struct {
		setting  *int
		standard int
	}{{&cfg.DuplicateWindow, defaultWindow}, {&cfg.MaxStreams, defaultStreams}, {&cfg.Attempts, defaultAttempts}} {
		if *d.setting <= 0 {
			*d.setting = d.standard
		}
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cl, err := kgo.NewClient(cfg.Opts...)
	if err != nil {
		return nil, fmt.Errorf("open event store: %w", err)
	}
	k := &Kafka{cfg: cfg, cl: cl, adm: kadm.NewClient(cl), log: cfg.Logger.With("component", "eventstore", "topic", cfg.Topic)}
	for p := range cfg.Partitions {
		k.lanes = append(k.lanes, newLane(k, p))
	}
	if err := k.inspect(ctx); err != nil {
		cl.Close()
		return nil, err
	}
	return k, nil
}

// Close gives all partitions back. It waits for an Append that is under way.
func (k *Kafka) Close() {
	for _, l := range k.lanes {
		l.turn <- struct{}{}
		l.dropWriter()
		l.dropReader()
		l.closed = true
		<-l.turn
	}
	k.cl.Close()
}

// Capabilities of a Kafka store: only the events of one stream are in order,
// and only the newest ids are known.
func (k *Kafka) Capabilities() Capabilities {
	return Capabilities{ExactResume: true, DuplicateWindow: k.cfg.DuplicateWindow, NeedsKafka: true}
}

func (k *Kafka) inspect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Timeout)
	defer cancel()
	topic, err := k.lookUp(ctx)
	if err != nil {
		return fmt.Errorf("look up topic %s: %w", k.cfg.Topic, err)
	}
	if n := len(topic.Partitions); n != int(k.cfg.Partitions) {
		return &LogError{Log: k.cfg.Topic, Detail: fmt.Sprintf("has %d partitions, and its streams were spread over %d", n, k.cfg.Partitions)}
	}
	configs, err := k.adm.DescribeTopicConfigs(ctx, k.cfg.Topic)
	var config kadm.ResourceConfig
	if err == nil {
		if config, err = configs.On(k.cfg.Topic, nil); err == nil {
			err = config.Err
		}
	}
	var denied *kadm.AuthError
	if errors.As(err, &denied) || errors.Is(err, kerr.TopicAuthorizationFailed) {
		return nil // the right to look is not needed to append
	}
	if err != nil {
		return fmt.Errorf("describe topic %s: %w", k.cfg.Topic, err)
	}
	for _, c := range config.Configs {
		want, matters := map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}[c.Key]
		if matters && c.MaybeValue() != want {
			return &LogError{Log: k.cfg.Topic, Detail: fmt.Sprintf("has %s=%s and would lose events; set it to %s", c.Key, c.MaybeValue(), want)}
		}
	}
	return nil
}

// topicPatience is how long a topic may be unknown before it counts as
// missing: a broker that did not hear of it yet says the same.
const topicPatience = 2 * time.Second

func (k *Kafka) lookUp(ctx context.Context) (kadm.TopicDetail, error) {
	for since := time.Now(); ; {
		// Asking for rights too is the way past the client's memory, which
		// also keeps for five seconds that a topic does not exist.
		topics, err := k.adm.ListTopics(kadm.WithAuthorizedOps(ctx), k.cfg.Topic)
		if err != nil {
			return kadm.TopicDetail{}, err
		}
		topic := topics[k.cfg.Topic]
		if !errors.Is(topic.Err, kerr.UnknownTopicOrPartition) || time.Since(since) > topicPatience {
			return topic, topic.Err
		}
		if err := sleep(ctx, topicPatience/20); err != nil {
			return topic, topic.Err
		}
	}
}

// partitionOf places a stream as every Kafka client places a key.
func (k *Kafka) partitionOf(stream string) int32 {
	p := kgo.StickyKeyPartitioner(nil).ForTopic(k.cfg.Topic)
	return int32(p.Partition(&kgo.Record{Key: []byte(stream)}, int(k.cfg.Partitions)))
}

// ends returns where the reading of each partition stops: at the last stable
// offset for readers, at the high watermark for who has just fenced all others
// and has to see everything.
func (k *Kafka) ends(ctx context.Context, stable bool) ([]int64, error) {
	list := k.adm.ListEndOffsets
	if stable {
		list = k.adm.ListCommittedOffsets
	}
	listed, err := list(ctx, k.cfg.Topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the offsets of topic %s: %w", k.cfg.Topic, err)
	}
	out := make([]int64, k.cfg.Partitions)
	for p := range k.cfg.Partitions {
		o, ok := listed.Lookup(k.cfg.Topic, p)
		if !ok {
			return nil, &LogError{Log: k.cfg.Topic, Detail: fmt.Sprintf("has no partition %d any more", p)}
		}
		out[p] = o.Offset
	}
	return out, nil
}

func (k *Kafka) logName(partition int32) string {
	return k.cfg.Topic + "/" + strconv.Itoa(int(partition))
}

// Append takes the lease of the stream's partition, if this store does not
// have it, and appends in one Kafka transaction. It returns when the events
// can be read.
//
// Once the transaction has begun, the end of ctx does not stop it: Timeout
// does.
func (k *Kafka) Append(ctx context.Context, stream string, expected ExpectedVersion, events ...Event) (int64, error) {
	if err := check(stream, expected, events); err != nil {
		return 0, err
	}
	l := k.lanes[k.partitionOf(stream)]
	if err := l.take(ctx); err != nil {
		return 0, err
	}
	defer l.give()
	return l.append(ctx, stream, expected, events)
}

var _ Store = (*Kafka)(nil)

// event reads a record that only a store may have written.
func (k *Kafka) event(r *kgo.Record) (Recorded, error) {
	ev, lack := fromRecord(r)
	if lack != "" {
		return ev, &LogError{Log: k.logName(r.Partition), Place: strconv.FormatInt(r.Offset, 10), Detail: lack + ": it was not written by an event store"}
	}
	if p := k.partitionOf(ev.Stream); p != r.Partition {
		return ev, &LogError{Log: k.logName(r.Partition), Place: strconv.FormatInt(r.Offset, 10), Detail: fmt.Sprintf("holds an event of partition %d: the topic had another number of partitions once", p)}
	}
	if ev.Payload == nil {
		ev.Payload = []byte{}
	}
	if ev.ContentType == "" {
		ev.ContentType = outbox.ContentBytes
	}
	return ev, nil
}
