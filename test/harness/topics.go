package harness

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TopicSpace is one test's part of the names on a shared broker.
type TopicSpace struct {
	Prefix string
	kafka  *KafkaServer
}

// Topics returns a prefix on the shared broker that is this test's alone.
func Topics(t testing.TB) *TopicSpace {
	t.Helper()
	return Kafka(t).NewTopics(t)
}

// NewTopics returns a prefix that is this test's alone. All topics that carry
// it by the end of the test, whoever created them, are deleted; if the broker
// does not run by then, they are left to whoever stopped it.
func (k *KafkaServer) NewTopics(t testing.TB) *TopicSpace {
	t.Helper()
	s := &TopicSpace{Prefix: uniqueName(t) + ".", kafka: k}
	t.Cleanup(func() {
		if k.proc != nil && !k.proc.running() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.delete(ctx); err != nil {
			t.Errorf("delete the topics of %s: %v", s.Prefix, err)
		}
	})
	return s
}

// Name returns the full name of a topic.
func (s *TopicSpace) Name(topic string) string { return s.Prefix + topic }

// Create makes a topic with one replica and returns its full name. Settings
// may be nil.
func (s *TopicSpace) Create(t testing.TB, topic string, partitions int32, settings map[string]string) string {
	t.Helper()
	adm, err := s.admin()
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	configs := map[string]*string{}
	for key, value := range settings {
		configs[key] = kadm.StringPtr(value)
	}
	if _, err := adm.CreateTopic(t.Context(), partitions, 1, configs, s.Name(topic)); err != nil {
		t.Fatalf("create topic %s: %v", s.Name(topic), err)
	}
	return s.Name(topic)
}

func (s *TopicSpace) delete(ctx context.Context) error {
	adm, err := s.admin()
	if err != nil {
		return err
	}
	defer adm.Close()
	all, err := adm.ListTopics(ctx)
	if err != nil {
		return err
	}
	mine := slices.DeleteFunc(all.Names(), func(name string) bool { return !strings.HasPrefix(name, s.Prefix) })
	if len(mine) == 0 {
		return nil
	}
	done, err := adm.DeleteTopics(ctx, mine...)
	if err != nil {
		return err
	}
	return done.Error()
}

func (s *TopicSpace) admin() (*kadm.Client, error) {
	// A broker that a test left frozen must not hold the others up.
	return kadmClient(s.kafka.Client(kgo.RetryTimeout(10 * time.Second)))
}

func kadmClient(cl *kgo.Client, err error) (*kadm.Client, error) {
	if err != nil {
		return nil, err
	}
	return kadm.NewClient(cl), nil
}
