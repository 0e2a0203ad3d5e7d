package demo

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kfake"
)

// brokerCount is enough for topics to have leaders in several places, which is
// what a client meets in production.
const brokerCount = 3

// broker is the Kafka of the demo: in process, or one that was given.
type broker struct {
	addrs   []string
	about   string
	cluster *kfake.Cluster
}

func (b *broker) inProcess() bool { return b.cluster != nil }

func openBroker(given []string) (*broker, error) {
	if len(given) > 0 {
		return &broker{addrs: given, about: fmt.Sprintf("given, %s", given[0])}, nil
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(brokerCount), kfake.DefaultNumPartitions(6))
	if err != nil {
		return nil, fmt.Errorf("start the in-process broker: %w", err)
	}
	return &broker{
		addrs:   cluster.ListenAddrs(),
		about:   fmt.Sprintf("in-process broker, %d nodes, not durable", brokerCount),
		cluster: cluster,
	}, nil
}

func (b *broker) close() {
	if b.cluster != nil {
		b.cluster.Close()
	}
}
