package kafka

import (
	"crypto/tls"
	"net"
	"strconv"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Endpoint is the address of a broker.
type Endpoint struct {
	Host string
	Port uint16
}

// String returns host:port.
func (e Endpoint) String() string {
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// Endpoints returns the brokers of the configuration, for whoever looks at each
// of them alone.
func (c *Config) Endpoints() ([]Endpoint, error) {
	brokers, faults := parseBrokers(c.Brokers)
	if len(faults) > 0 {
		return nil, faults[0]
	}
	if len(brokers) == 0 {
		return nil, fault.New(fault.ConfigMissing, "KAFKA_BROKERS is not set").WithFix("KAFKA_BROKERS=broker-1:9092,broker-2:9092")
	}
	all := make([]Endpoint, len(brokers))
	for i, b := range brokers {
		all[i] = Endpoint{Host: b.host, Port: b.port}
	}
	return all, nil
}

// Timeouts returns the longest time to connect to a broker and the longest time
// for one request.
func (c *Config) Timeouts() (connection, request time.Duration) {
	return c.connectionTimeout(), c.requestTimeout()
}

// Handshake returns what a TLS handshake with a host is made with, the same as
// a client's.
func (c *Config) Handshake(host string) (*tls.Config, error) {
	cfg, err := c.TLS.config()
	if err != nil {
		return nil, &tlsFileError{err: err}
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	return cfg, nil
}
