package provision

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// Topic is a topic with the settings that the relay needs of it. Partitions of
// -1 is the brokers' default; replication always is.
type Topic struct {
	Name       string
	Partitions int32
	Configs    map[string]string
}

// CheckpointTopic returns the settings of the checkpoint topic. One partition:
// its order is the history of the relay. Compact and nothing else: deletion by
// age would remove the only record there is. Small segments, or the log of a
// busy relay is never compacted; no unclean elections, which lose
// acknowledged checkpoints.
func CheckpointTopic(name string) Topic {
	return Topic{Name: name, Partitions: 1, Configs: map[string]string{
		"cleanup.policy":                 "compact",
		"segment.bytes":                  "16777216",
		"min.cleanable.dirty.ratio":      "0.1",
		"unclean.leader.election.enable": "false",
	}}
}

// String is the topic as an argument list of kafka-topics.sh.
func (t Topic) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "kafka-topics.sh --create --topic %s", t.Name)
	if t.Partitions > 0 {
		fmt.Fprintf(&b, " --partitions %d", t.Partitions)
	}
	keys := make([]string, 0, len(t.Configs))
	for k := range t.Configs {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, " --config %s=%s", k, t.Configs[k])
	}
	return b.String()
}

// Create creates the topic. A topic that exists is no error.
func (t Topic) Create(ctx context.Context, adm *kadm.Client) error {
	configs := make(map[string]*string, len(t.Configs))
	for k, v := range t.Configs {
		configs[k] = &v
	}
	resp, err := adm.CreateTopic(ctx, t.Partitions, -1, configs, t.Name)
	if err == nil {
		err = resp.Err
	}
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil
	}
	err = kafka.Classify("create topic "+t.Name, err)
	var f *fault.Error
	if errors.As(err, &f) && f.Code == fault.KafkaDenied {
		return f.WithFix("have somebody with the right run: %s", t)
	}
	return err
}

// exists tells whether a topic does.
func (p *Plan) exists(ctx context.Context, name string) (bool, error) {
	cl, err := kgo.NewClient(p.Kafka...)
	if err != nil {
		return false, fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	defer cl.Close()
	there, err := kadm.NewClient(cl).ListTopics(ctx, name)
	return there.Has(name), kafka.Classify("look up topic "+name, err)
}

func (p *Plan) createTopics(ctx context.Context) error {
	cl, err := kgo.NewClient(p.Kafka...)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	names := make([]string, len(p.Topics))
	for i, t := range p.Topics {
		names[i] = t.Name
	}
	there, err := adm.ListTopics(ctx, names...)
	if err != nil {
		return kafka.Classify("look up topics "+strings.Join(names, ", "), err)
	}
	for _, t := range p.Topics {
		if there.Has(t.Name) {
			continue
		}
		if err := t.Create(ctx, adm); err != nil {
			return err
		}
		p.Log.Info().Str("topic", t.Name).Msg("topic created")
	}
	return nil
}
