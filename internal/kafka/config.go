// Package kafka makes Kafka clients and names their failures.
//
// Its job: one Config, one function (Options) through which every client of
// the program is built, so that timeouts, TLS, SASL, client id, log and metrics
// cannot differ between producer, reader and admin; one function (Classify)
// that turns what a client returned into a *fault.Error; and one (Reach) that
// says in time what keeps a client out. The client library forgets causes and
// tries again for half a minute, so the dialler notes how far a connection had
// come (connError), and a Trace keeps the newest failure of each address.
//
// Invariants: a configuration is judged whole before anything is dialled, and
// every fault of it is returned, not the first. A password is never part of an
// error, a log line or a printed struct. Errors are told apart by type and by
// Kafka's code, never by their text.
//
// It leaves to others: transactions and their options (sink), topics
// (checkpoint, sink), retries and backoff (internal/relay), the circuit breaker (internal/breaker),
// and where settings come from (internal/config; the struct tags are its).
package kafka

import (
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// Defaults of the durations. Zero in a Config means these.
const (
	DefaultConnectionTimeout = 10 * time.Second
	DefaultRequestTimeout    = 30 * time.Second
)

// Bounds of the client library for its request time-outs; outside of them it
// refuses to start with a message about an option nobody here has set.
const (
	minTimeout = 100 * time.Millisecond
	maxTimeout = 15 * time.Minute
)

// Config says how to reach a cluster. Zero durations and an empty compression
// mean the defaults, so a literal with brokers alone is complete.
type Config struct {
	Brokers           []string      `name:"kafka-brokers" also:"KAFKA_BOOTSTRAP_SERVERS" placeholder:"HOST:PORT" help:"Brokers to start from, comma-separated."`
	ConnectionTimeout time.Duration `name:"kafka-connection-timeout" default:"10s" help:"Longest time to connect to a broker, TLS and authentication included."`
	RequestTimeout    time.Duration `name:"kafka-request-timeout" default:"30s" help:"Longest time for one request and its answer."`
	Compression       string        `name:"kafka-compression" default:"zstd" help:"Codec of produced batches: none, gzip, snappy, lz4 or zstd."`
	TLS               TLS           `embed:""`
	SASL              SASL          `embed:""`

	// ClientID is the first part of every client id; the role is the second.
	ClientID string `kong:"-"`
	// Once has the first failure to connect stand, for whoever wants to know
	// what is wrong rather than to get through.
	Once bool `kong:"-"`
	// Trace is told how connections end. May be nil.
	Trace *Trace `kong:"-"`
}

// TLS says whether and how connections are encrypted.
type TLS struct {
	Mode               Switch `name:"kafka-tls" also:"KAFKA_SSL" default:"auto" help:"Encrypt connections; auto does so when every broker's port is 9094."`
	CAFile             string `name:"kafka-tls-ca-file" placeholder:"FILE" help:"PEM bundle to verify brokers with, instead of the system's."`
	CertFile           string `name:"kafka-tls-cert-file" placeholder:"FILE" help:"Client certificate."`
	KeyFile            string `name:"kafka-tls-key-file" placeholder:"FILE" help:"Key of the client certificate."`
	ServerName         string `name:"kafka-tls-server-name" placeholder:"NAME" help:"Name to expect in the brokers' certificates."`
	InsecureSkipVerify bool   `name:"kafka-tls-insecure-skip-verify" default:"false" help:"Accept any certificate. Protects against nobody."`
}

// SASL says who the client is. An empty mechanism means nobody.
type SASL struct {
	Mechanism    string      `name:"kafka-sasl-mechanism" placeholder:"NAME" help:"plain, scram-sha-256, scram-sha-512, oauthbearer or aws-msk-iam."`
	Username     string      `name:"kafka-sasl-username" placeholder:"NAME" help:"User to authenticate as; the access key of aws-msk-iam."`
	Password     secret.Text `name:"kafka-sasl-password" help:"Password, token of oauthbearer or secret key of aws-msk-iam; environment or file only."`
	SessionToken secret.Text `name:"kafka-sasl-session-token" help:"Session token of aws-msk-iam; environment or file only."`
	PasswordFile string      `name:"kafka-sasl-password-file" placeholder:"FILE" help:"File with the password, read at each authentication."`
}

// Secret is the type of a password, which prints as a token.
type Secret = secret.Text

// Validate returns every fault of the configuration. It dials nobody; it does
// read the files that the configuration names. No broker at all is no fault
// here: the command knows whether it needs Kafka.
func (c *Config) Validate() []*fault.Error {
	_, faults := parseBrokers(c.Brokers)
	faults = append(faults, c.validateTimes()...)
	if _, err := c.codec(); err != nil {
		faults = append(faults, err)
	}
	faults = append(faults, c.validateTLS()...)
	faults = append(faults, c.validateSASL()...)
	return faults
}

func (c *Config) validateTimes() []*fault.Error {
	var faults []*fault.Error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"KAFKA_CONNECTION_TIMEOUT", c.ConnectionTimeout},
		{"KAFKA_REQUEST_TIMEOUT", c.RequestTimeout},
	} {
		if d.value != 0 && (d.value < minTimeout || d.value > maxTimeout) {
			faults = append(faults, fault.New(fault.ConfigInvalid, "%s is %s", d.name, d.value).
				WithWhy("it has to be between %s and %s", minTimeout, maxTimeout).
				WithFix("%s=10s (a bare number is milliseconds)", d.name))
		}
	}
	return faults
}

func (c *Config) connectionTimeout() time.Duration {
	return or(c.ConnectionTimeout, DefaultConnectionTimeout)
}

func (c *Config) requestTimeout() time.Duration { return or(c.RequestTimeout, DefaultRequestTimeout) }

func or(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

// plainName lowers a name and turns underscores to hyphens: environment files
// carry SCRAM_SHA_512 as often as scram-sha-512.
func plainName(s string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimSpace(s)), "_", "-")
}
