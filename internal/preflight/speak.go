package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// transactionVersion is the feature of KIP-890, and fullGuarantee its level
// from which on every transaction has an epoch of its own.
const (
	transactionVersion = "transaction.version"
	fullGuarantee      = 2
)

// client makes a client for the given brokers. Its requests are bounded by the
// caller's context, not by the client's own patience.
func (r *run) client(c kafka.Config, seeds []kafka.Endpoint, more ...kgo.Opt) (*kgo.Client, error) {
	c.Once = true // what is wrong is wanted, not to get through
	opts, err := c.Options("verify", r.cfg.Log, nil)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(seeds))
	for i, e := range seeds {
		names[i] = e.String()
	}
	cl, err := kgo.NewClient(append(append(opts, kgo.SeedBrokers(names...)), more...)...)
	if err != nil {
		return nil, fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	return cl, nil
}

// hello asks one broker for its API versions over a connection of its own.
func (r *run) hello(ctx context.Context, c kafka.Config, e kafka.Endpoint) (*kmsg.ApiVersionsResponse, error) {
	cl, err := r.client(c, []kafka.Endpoint{e})
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "outbox-relay", "1"
	return req.RequestWith(ctx, cl.SeedBrokers()[0])
}

// api asks for the API versions, which a broker tells before anybody has
// authenticated: whoever answers is a Kafka broker that speaks our protocol.
func (r *run) api(ctx context.Context, s *step, e kafka.Endpoint) bool {
	ctx, cancel := context.WithTimeout(ctx, min(r.connection, r.request))
	defer cancel()
	resp, err := r.cfg.Kafka.Versions(ctx, e.String())
	if err != nil {
		s.fail(r.cfg.Kafka.Diagnose(context.WithoutCancel(ctx), e.String(), kafka.Classify("ask "+e.String()+" for its API versions", err)))
		return false
	}
	versions := kversion.FromApiVersionsResponse(resp)
	release := versions.VersionGuess()
	// KIP-360: before it a fenced producer and one whose id was forgotten look
	// the same.
	if n, ok := versions.LookupMaxKeyVersion(kmsg.NewPtrInitProducerIDRequest().Key()); !ok || n < 3 {
		s.fail(fault.New(fault.KafkaVersion, "release %s", release))
		return false
	}
	level := -1
	for _, f := range resp.FinalizedFeatures {
		if f.Name == transactionVersion {
			level = int(f.MaxVersionLevel)
		}
	}
	switch {
	case level < 0:
		s.warn(fault.New(fault.GuaranteeDegraded, "release %s, without %s: the guarantee is degraded", release, transactionVersion))
	case level < fullGuarantee:
		s.warn(fault.New(fault.GuaranteeDegraded, "release %s, %s=%d: the guarantee is degraded", release, transactionVersion, level))
	default:
		s.pass(fmt.Sprintf("release %s, %s=%d: full guarantee", release, transactionVersion, level))
	}
	return true
}

// sasl authenticates with one broker.
func (r *run) sasl(ctx context.Context, s *step, e kafka.Endpoint) bool {
	who := r.cfg.Kafka.SASL
	if who.Mechanism == "" {
		s.skip("off: KAFKA_SASL_MECHANISM is not set")
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, r.request)
	defer cancel()
	if _, err := r.hello(ctx, r.cfg.Kafka, e); err != nil {
		s.fail(kafka.Classify("authenticate with "+e.String()+" as "+who.Username, err))
		return false
	}
	s.pass(fmt.Sprintf("%s, by %s", who.Username, strings.ToLower(who.Mechanism)))
	return true
}
