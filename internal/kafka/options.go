package kafka

import (
	"fmt"
	"strings"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Options returns what every client of this program is built with; the caller
// adds what its role needs. The role becomes the end of the client id and a
// label of the metrics. A nil Metrics counts nothing.
//
// KAFKA_REQUEST_TIMEOUT is both times the client knows: how long a broker may
// take over a produce request, and how long any answer may be outstanding
// beyond the time-out that its request carries.
func (c *Config) Options(role string, log zerolog.Logger, m *Metrics) ([]kgo.Opt, error) {
	brokers, faults := parseBrokers(c.Brokers)
	if len(faults) > 0 {
		return nil, faults[0]
	}
	if len(brokers) == 0 {
		// Left alone, the client would dial 127.0.0.1:9092.
		return nil, fault.New(fault.ConfigMissing, "KAFKA_BROKERS is not set").WithFix("KAFKA_BROKERS=broker-1:9092,broker-2:9092")
	}
	codec, bad := c.codec()
	if bad != nil {
		return nil, bad
	}
	seeds := make([]string, len(c.Brokers))
	for i, b := range c.Brokers {
		seeds[i] = strings.TrimSpace(b)
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(seeds...),
		kgo.ClientID(c.clientID(role)),
		kgo.RequestTimeoutOverhead(c.requestTimeout()),
		kgo.ProduceRequestTimeout(c.requestTimeout()),
		kgo.ProducerBatchCompression(codec),
		kgo.WithLogger(newLogger(log.With().Str("component", "kafka").Str("role", role).Logger())),
	}
	d := dialler{timeout: c.connectionTimeout(), final: c.Once, metrics: m}
	if on, _ := c.TLSEnabled(); on {
		d.tls = &c.TLS
	}
	opts = append(opts, kgo.Dialer(d.dial), kgo.WithHooks(connections{trace: c.Trace, metrics: m}))
	if c.SASL.Mechanism != "" {
		mech, err := c.SASL.mechanism()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(mech))
	}
	if m != nil {
		opts = append(opts, kgo.WithHooks(m.hooks(role)...))
	}
	return opts, nil
}

func (c *Config) clientID(role string) string {
	prefix := c.ClientID
	if prefix == "" {
		prefix = "outbox-relay"
	}
	if role == "" {
		return prefix
	}
	return prefix + "-" + role
}

func (c *Config) codec() (kgo.CompressionCodec, *fault.Error) {
	switch plainName(c.Compression) {
	case "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd", "":
		return kgo.ZstdCompression(), nil
	}
	return kgo.CompressionCodec{}, &fault.Error{
		Code:   fault.ConfigInvalid,
		Detail: fmt.Sprintf("KAFKA_COMPRESSION is %q", c.Compression),
		Why:    "known codecs are none, gzip, snappy, lz4 and zstd",
		Fix:    "KAFKA_COMPRESSION=zstd",
	}
}
