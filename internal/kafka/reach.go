package kafka

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Reach asks every broker of the list at once whether it lets us in, and
// returns nil as soon as one does. Otherwise it says what is wrong, within
// KAFKA_CONNECTION_TIMEOUT: nothing is tried twice, and where brokers fail in
// different ways the one is named that got furthest.
//
// It is for the moment before a client is put to use. A client would try for
// half a minute, and may forget the cause.
func (c *Config) Reach(ctx context.Context, role string, log zerolog.Logger, m *Metrics) error {
	once := *c
	once.Once = true
	opts, err := once.Options(role, log, m)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(append(opts, kgo.RequestRetries(0))...)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	defer cl.Close()
	// The dialler keeps to the time-out by itself. This is for the one request
	// behind it, and leaves the dialler the first word.
	ctx, cancel := context.WithTimeout(ctx, c.connectionTimeout()+reachGrace)
	defer cancel()
	seeds := cl.SeedBrokers()
	answers := make(chan error, len(seeds))
	for i, b := range seeds {
		go func() { answers <- c.ask(ctx, b, c.Brokers[i]) }()
	}
	var worst *fault.Error
	for range seeds {
		err := <-answers
		if err == nil {
			return nil // closing the client ends the others
		}
		var f *fault.Error
		if !errors.As(err, &f) {
			return err // cancelled
		}
		if worst == nil || furthest(f) > furthest(worst) {
			worst = f
		}
	}
	return worst
}

// reachGrace is for one request to a broker that has let us in.
const reachGrace = time.Second

// ask connects and sends the first request that a stranger is not answered.
func (c *Config) ask(ctx context.Context, b *kgo.Broker, addr string) error {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none; nil would be all
	_, err := b.Request(ctx, req)
	if err == nil {
		return nil
	}
	return c.Diagnose(ctx, addr, Classify("reach Kafka: broker "+addr, err))
}

// furthest ranks a failure by how far the connection had come.
func furthest(f *fault.Error) int {
	return slices.Index([]string{"", "dns", "timeout", "network", "protocol", "tls", "sasl", "authz"}, f.Code.Connection())
}
