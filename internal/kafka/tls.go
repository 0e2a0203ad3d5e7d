package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// TLSEnabled tells whether connections are encrypted, and in a clause why. A
// spoken word wins; else TLS is on when every broker's port is 9094.
func (c *Config) TLSEnabled() (on bool, why string) {
	switch c.TLS.Mode {
	case On:
		return true, "set"
	case Off:
		return false, "set"
	}
	all, some := c.tlsPorts()
	switch {
	case all:
		return true, "every broker's port is 9094"
	case some:
		return false, "ports are mixed"
	}
	return false, "no broker's port is 9094"
}

func (c *Config) tlsPorts() (all, some bool) {
	brokers, _ := parseBrokers(c.Brokers)
	n := 0
	for _, b := range brokers {
		if b.port == tlsPort {
			n++
		}
	}
	return n > 0 && n == len(brokers), n > 0 && n < len(brokers)
}

func (c *Config) validateTLS() []*fault.Error {
	var faults []*fault.Error
	if _, mixed := c.tlsPorts(); mixed && c.TLS.Mode == Auto {
		faults = append(faults, fault.New(fault.ConfigInvalid, "KAFKA_TLS is not set, and only some brokers have port 9094").
			WithWhy("one client speaks either TLS or plaintext to all brokers, and the ports do not say which").
			WithFix("KAFKA_TLS=true or KAFKA_TLS=false"))
	}
	t := c.TLS
	if (t.CertFile == "") != (t.KeyFile == "") {
		faults = append(faults, fault.New(fault.ConfigInvalid, "KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE: only one is set").
			WithWhy("a client certificate needs its key").WithFix("set both or neither"))
	}
	if t.CAFile != "" {
		if _, err := t.roots(); err != nil {
			faults = append(faults, fault.Wrap(err, fault.ConfigInvalid, "KAFKA_TLS_CA_FILE").
				WithWhy("the certificates in it cannot be used").WithFix("name a readable file of PEM certificates"))
		}
	}
	if t.CertFile != "" && t.KeyFile != "" {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			faults = append(faults, fault.Wrap(err, fault.ConfigInvalid, "KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE").
				WithWhy("they cannot be used together").WithFix("name a PEM certificate and its unencrypted key"))
		}
	}
	return faults
}

func (t TLS) config() (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,         // empty: the host that is dialled
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // asked for by name, and warned about at each start
	}
	if t.CAFile != "" {
		pool, err := t.roots()
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = pool
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

func (t TLS) roots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("read authorities: no PEM certificate in the file")
	}
	return pool, nil
}

// tlsFileError marks a failure to read our own files at dial time, which would
// otherwise look like one of the network.
type tlsFileError struct{ err error }

func (e *tlsFileError) Error() string { return "prepare TLS: " + e.err.Error() }
func (e *tlsFileError) Unwrap() error { return e.err }
