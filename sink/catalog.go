package sink

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// defaultMaxMessageBytes is Kafka's own default of max.message.bytes. It is
// assumed where the relay may not read the configuration of a topic.
const defaultMaxMessageBytes = 1048588

// maxBatchBytes bounds what one batch may have, whatever a topic allows: the
// client's limit for a whole request is 100 MiB.
const maxBatchBytes = 96 << 20

// Topic is what a session has to know about a topic before it produces to it.
type Topic struct {
	MaxBytes   int // max.message.bytes
	Partitions int
}

// Catalog knows the topics of one session. Every topic is looked up once,
// before the first record for it is built; a topic that changes meanwhile is
// seen by the next session. It is safe for concurrent use.
type Catalog struct {
	adm *kadm.Client
	// create makes a topic that does not exist; nil: it is an error.
	create func(ctx context.Context, adm *kadm.Client, name string) error

	mu    sync.RWMutex
	known map[string]Topic
}

func newCatalog(adm *kadm.Client, create func(context.Context, *kadm.Client, string) error) *Catalog {
	return &Catalog{adm: adm, create: create, known: map[string]Topic{}}
}

// Get returns a topic that Ensure has looked up.
func (c *Catalog) Get(name string) (Topic, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t, ok := c.known[name]
	return t, ok
}

// Limit returns max.message.bytes of a known topic, else 0.
func (c *Catalog) Limit(name string) int {
	t, _ := c.Get(name)
	return t.MaxBytes
}

// Partitions returns the number of partitions of a known topic, else 0.
func (c *Catalog) Partitions(name string) int {
	t, _ := c.Get(name)
	return t.Partitions
}

// batchLimit is what the client is told: the same number that Route checks
// against, or a record could pass there and fail here.
func (c *Catalog) batchLimit(name string) int32 {
	if n := c.Limit(name); n > 0 {
		return int32(min(max(n, 512), maxBatchBytes))
	}
	return defaultMaxMessageBytes
}

// Ensure looks a topic up, and creates it if that is allowed. The error is a
// *fault.Error, of class Retry for a topic that does not exist: nothing else
// may pass it, so the relay waits.
func (c *Catalog) Ensure(ctx context.Context, name string) error {
	if _, ok := c.Get(name); ok {
		return nil
	}
	t, err := c.describe(ctx, name)
	if errors.Is(err, kerr.UnknownTopicOrPartition) && c.create != nil {
		if err = c.create(ctx, c.adm, name); err == nil || errors.Is(err, kerr.TopicAlreadyExists) {
			t, err = c.describe(ctx, name)
		}
	}
	if err != nil {
		return kafka.Classify(fmt.Sprintf("look up topic %s", name), err)
	}
	c.mu.Lock()
	c.known[name] = t
	c.mu.Unlock()
	return nil
}

func (c *Catalog) describe(ctx context.Context, name string) (Topic, error) {
	topics, err := c.adm.ListTopics(fresh(ctx), name)
	if err != nil {
		return Topic{}, err
	}
	d, ok := topics[name]
	if !ok {
		return Topic{}, kerr.UnknownTopicOrPartition
	}
	if d.Err != nil {
		return Topic{}, d.Err
	}
	t := Topic{Partitions: len(d.Partitions), MaxBytes: defaultMaxMessageBytes}
	settings, err := topicSettings(ctx, c.adm, name)
	if err != nil {
		return Topic{}, err
	}
	if v, ok := settings["max.message.bytes"]; ok {
		if _, err := fmt.Sscan(v, &t.MaxBytes); err != nil {
			return Topic{}, fault.Wrap(err, fault.KafkaSetting, "max.message.bytes of topic %s is %q", name, v)
		}
	}
	return t, nil
}

// fresh makes a look-up of topics ask a broker. Otherwise the client answers
// for five seconds from its memory, also that a topic does not exist; asking
// for more than the memory holds is the documented way past it.
func fresh(ctx context.Context) context.Context { return kadm.WithAuthorizedOps(ctx) }

// topicSettings reads the configuration of a topic; it is empty if the relay
// lacks the right to read it, which is optional.
func topicSettings(ctx context.Context, adm *kadm.Client, name string) (map[string]string, error) {
	configs, err := adm.DescribeTopicConfigs(ctx, name)
	if denied := (*kadm.AuthError)(nil); errors.As(err, &denied) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, rc := range configs {
		if rc.Err != nil {
			return nil, rc.Err
		}
		for _, kv := range rc.Configs {
			if kv.Value != nil {
				out[kv.Key] = *kv.Value
			}
		}
	}
	return out, nil
}
