package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// diagnoseTimeout bounds the second look: the port has answered a moment ago,
// if only by hanging up.
const diagnoseTimeout = time.Second

// Diagnose looks a second time at a broker that hung up before its first
// answer, in the other language: TLS where plaintext was spoken, plaintext
// where TLS was. An error that is beyond doubt, or stays in doubt, is returned
// as it is.
//
// Nothing secret is sent: the second look ends before any authentication.
func (c *Config) Diagnose(ctx context.Context, broker string, err error) error {
	var f *fault.Error
	if !errors.As(err, &f) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout)
	defer cancel()
	switch on, _ := c.TLSEnabled(); {
	case f.Code == fault.KafkaClosed && !on && speaksTLS(ctx, broker):
		return fault.Wrap(f.Err, fault.KafkaTLSPort, "%s", f.Detail)
	case f.Code == fault.KafkaPlaintextPort && on && !speaksKafka(ctx, broker):
		return f.WithWhy("%s ended the TLS handshake, and does not answer without TLS either", broker).
			WithFix("check the port; it may expect another protocol, or a load balancer there has no broker behind it")
	}
	return err
}

// speaksTLS tells whether the port answers a greeting of TLS, with whatever
// certificate.
func speaksTLS(ctx context.Context, addr string) bool {
	//nolint:gosec // nothing is sent over it, and nothing is believed
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err == nil {
		c.Close()
		return true
	}
	_, alert := alertOf(err)
	return alert
}

// speaksKafka tells whether the port answers, in plaintext, what every broker
// answers strangers.
func speaksKafka(ctx context.Context, addr string) bool {
	_, err := dialler{timeout: diagnoseTimeout}.versions(ctx, addr)
	return err == nil
}
