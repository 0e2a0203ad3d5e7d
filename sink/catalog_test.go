package sink_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/sink"
)

func TestCatalogLooksUpOnce(t *testing.T) {
	r := newRig(t)
	r.topic(t, "small", 3, map[string]string{"max.message.bytes": "4096"})
	_, s := r.open(t)
	if _, known := s.Catalog.Get("small"); known || s.Catalog.Limit("small") != 0 || s.Catalog.Partitions("small") != 0 {
		t.Error("a topic is known that nobody asked for")
	}
	asked := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: "small", Observe: true, Count: -1})
	for range 3 {
		if err := s.Catalog.Ensure(t.Context(), "small"); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Hits() != 1 {
		t.Errorf("the topic was looked up %d times", asked.Hits())
	}
	got, _ := s.Catalog.Get("small")
	if diff := cmp.Diff(sink.Topic{MaxBytes: 4096, Partitions: 3}, got); diff != "" {
		t.Errorf("topic (-want +got):\n%s", diff)
	}
}

// What a topic takes is what the client sends, beyond the client's own default
// and below it.
func TestCatalogLimitIsTheClients(t *testing.T) {
	for name, limit := range map[string]string{"large": "3000000", "small": "4096"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.topic(t, name, 1, map[string]string{"max.message.bytes": limit})
			p, s := r.open(t)
			if err := s.Catalog.Ensure(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			fits := event(strings.Repeat("x", s.Catalog.Limit(name)-200), 0)
			fits.Topic = name
			c := follow(s, 1)
			if err := p.write(t.Context(), t, c, fits); err != nil {
				t.Fatalf("a record of %d bytes: %v", len(fits.Value), err)
			}
			if err := p.ReadBack(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			large := event(strings.Repeat("x", s.Catalog.Limit(name)+1), 0)
			large.Topic = name
			produced := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: name, Observe: true, Count: -1})
			if err := p.write(t.Context(), t, follow(sessionAt(s, c), 1), large); !fault.Has(err, fault.TransactionFailed) {
				t.Errorf("a record over the limit: %v", err)
			}
			if produced.Hits() > 0 {
				t.Error("the client sent what the topic does not take")
			}
		})
	}
}

func TestCatalogMissingTopic(t *testing.T) {
	r := newRig(t)
	_, s := r.open(t)
	err := s.Catalog.Ensure(t.Context(), "absent")
	if !fault.Has(err, fault.KafkaTopicMissing) || !strings.Contains(err.Error(), "absent") {
		t.Errorf("got %v", err)
	}
	if class := fault.CodeOf(err).Class; class != fault.Retry {
		t.Errorf("a missing topic is of class %s", class)
	}
	if r.cluster.TopicInfo("absent") != nil {
		t.Error("the topic was created")
	}
	// It is not remembered as missing.
	r.topic(t, "absent", 1, nil)
	if err := s.Catalog.Ensure(t.Context(), "absent"); err != nil {
		t.Error(err)
	}
}

func TestCatalogCreatesTopics(t *testing.T) {
	refused := errors.New("refused")
	for name, tc := range map[string]struct {
		create func(*kfake.Cluster) error
		want   error
	}{
		"created": {func(c *kfake.Cluster) error { return c.CreateTopic("absent", 4, nil) }, nil},
		"somebody was quicker": {func(c *kfake.Cluster) error {
			return errors.Join(c.CreateTopic("absent", 4, nil), kerr.TopicAlreadyExists)
		}, nil},
		"the hook refuses":       {func(*kfake.Cluster) error { return refused }, refused},
		"it is not there at all": {func(*kfake.Cluster) error { return nil }, kerr.UnknownTopicOrPartition},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			var asked []string
			r.cfg.CreateTopic = func(_ context.Context, _ *kadm.Client, name string) error {
				asked = append(asked, name)
				return tc.create(r.cluster)
			}
			_, s := r.open(t)
			if err := s.Catalog.Ensure(t.Context(), events); err != nil {
				t.Error(err)
			}
			if err := s.Catalog.Ensure(t.Context(), "absent"); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if diff := cmp.Diff([]string{"absent"}, asked); diff != "" {
				t.Errorf("asked to create (-want +got):\n%s", diff)
			}
			if tc.want == nil && s.Catalog.Partitions("absent") != 4 {
				t.Errorf("%d partitions", s.Catalog.Partitions("absent"))
			}
		})
	}
}

// The right to read a topic's configuration is optional: Kafka's default is
// assumed. Any other failure is none to guess about.
func TestCatalogWithoutTheRightToDescribe(t *testing.T) {
	r := newRig(t)
	_, s := r.open(t)
	h := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: events, Err: kerr.TopicAuthorizationFailed})
	if err := s.Catalog.Ensure(t.Context(), events); err != nil || h.Hits() != 1 {
		t.Errorf("%v after %d refusals", err, h.Hits())
	}
	if limit := s.Catalog.Limit(events); limit != 1048588 {
		t.Errorf("limit %d", limit)
	}
	r.topic(t, "other", 1, nil)
	r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Resource: "other", Err: kerr.InvalidRequest})
	if err := s.Catalog.Ensure(t.Context(), "other"); err == nil {
		t.Error("an answer that means nothing was taken for one")
	}
}
