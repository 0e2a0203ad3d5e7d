package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"time"
)

// maxExpiries bounds the certificates that are watched; brokers come and go
// under any name.
const maxExpiries = 200

// The names of certificates that are our own; a broker's is its address.
const (
	nameClient = "kafka client certificate"
	nameCA     = "kafka authorities"
)

// expires notes when a certificate ends.
func (m *Metrics) expires(name string, at time.Time) {
	if m == nil || at.IsZero() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.expiry[name]; known || len(m.expiry) < maxExpiries {
		m.expiry[name] = at
	}
}

// ownCertificates notes the files of a client that is about to connect.
func (m *Metrics) ownCertificates(t *TLS, cfg *tls.Config) {
	if m == nil {
		return
	}
	for _, pair := range cfg.Certificates {
		if pair.Leaf != nil {
			m.expires(nameClient, pair.Leaf.NotAfter)
		}
	}
	if t.CAFile != "" {
		m.expires(nameCA, t.firstExpiry())
	}
}

// firstExpiry is when the first certificate of the file of authorities ends;
// zero if it cannot be read, which the dial will say.
func (t TLS) firstExpiry() time.Time {
	text, err := os.ReadFile(t.CAFile)
	if err != nil {
		return time.Time{}
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, c)
		}
	}
	return earliest(certs)
}

// brokerCertificates notes what a broker has shown, also where it was not
// accepted: one that has expired is the usual reason.
func (m *Metrics) brokerCertificates(addr string, c *tls.Conn, err error) {
	if m == nil || c == nil {
		return
	}
	shown := c.ConnectionState().PeerCertificates
	if bad := (*tls.CertificateVerificationError)(nil); errors.As(err, &bad) {
		shown = bad.UnverifiedCertificates
	}
	m.expires(addr, earliest(shown))
}

// earliest is when the first of a chain ends; zero for none.
func earliest(certs []*x509.Certificate) time.Time {
	var at time.Time
	for _, c := range certs {
		if at.IsZero() || c.NotAfter.Before(at) {
			at = c.NotAfter
		}
	}
	return at
}
