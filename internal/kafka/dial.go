package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// stage is how far a connection had come when it failed.
type stage uint8

const (
	dialling    stage = iota
	handshaking       // TLS
	opening           // Kafka's first answers: versions, authentication
	alienTLS          // the first bytes were a TLS record
	alien             // the first bytes were no answer of Kafka
)

// connError is a failure of a connection that is not in use yet, with what only
// its dialler knows. The client library reports much of it as a bare EOF.
type connError struct {
	stage stage
	addr  string
	tls   bool // we speak TLS
	first bool // nothing was received yet
	asked bool // the broker asked for a client certificate
	gave  bool // and got one
	final bool // the library is not to try again
	err   error
}

// Error returns what failed, and the address where the cause does not name it.
func (e *connError) Error() string {
	switch e.stage {
	case dialling:
		return e.err.Error()
	case handshaking:
		return "TLS handshake with " + e.addr + ": " + e.err.Error()
	}
	return "first answers of " + e.addr + ": " + e.err.Error()
}

// Unwrap returns the cause.
func (e *connError) Unwrap() error { return e.err }

// Timeout and Temporary are what the client library asks an error before it
// tries again.
func (e *connError) Timeout() bool { return isTimeout(e.err) }

// Temporary implements net.Error.
func (e *connError) Temporary() bool {
	var t interface{ Temporary() bool }
	return !e.final && errors.As(e.err, &t) && t.Temporary()
}

// dialler opens connections. The time-out covers everything until the broker
// has let us in: dial, TLS handshake, versions and authentication. A broker
// that takes connections and says nothing would otherwise be waited for as
// long as for an answer under load.
type dialler struct {
	tls     *TLS // nil: plaintext
	timeout time.Duration
	final   bool
	metrics *Metrics
}

// dial implements the function that the client library dials with. The files
// of TLS are read at each dial, which is rare: a renewed certificate or
// authority is in use at the next connection without a restart or a watcher.
func (d dialler) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	deadline := time.Now().Add(d.timeout)
	if t, ok := ctx.Deadline(); ok && t.Before(deadline) {
		deadline = t
	}
	e := connError{addr: addr, tls: d.tls != nil, final: d.final, first: true}
	var cfg *tls.Config
	if d.tls != nil {
		var err error
		if cfg, err = d.tls.config(); err != nil {
			return nil, &tlsFileError{err: err}
		}
		d.metrics.ownCertificates(d.tls, cfg)
	}
	raw, err := (&net.Dialer{Deadline: deadline}).DialContext(ctx, network, addr)
	if err != nil {
		e.err = err
		return nil, &e
	}
	if cfg == nil {
		return &conn{Conn: raw, deadline: deadline, info: e}, nil
	}
	enc, err := e.handshake(ctx, raw, cfg, deadline)
	d.metrics.brokerCertificates(addr, enc, err)
	if err != nil {
		raw.Close()
		e.stage, e.err = handshaking, err
		return nil, &e
	}
	return &conn{Conn: enc, deadline: deadline, info: e}, nil
}

// handshake notes whether the broker asks for a client certificate: with TLS
// 1.3 it says only after the handshake that it did not like the answer, and
// some say it by hanging up.
func (e *connError) handshake(ctx context.Context, raw net.Conn, cfg *tls.Config, deadline time.Time) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(e.addr)
	if err != nil {
		return nil, err
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	own := cfg.Certificates
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		e.asked = true
		if len(own) == 0 {
			return new(tls.Certificate), nil
		}
		// Given even if it is not of an authority that the broker names: to be
		// refused says more than to be missed.
		e.gave = true
		return &own[0], nil
	}
	if err := raw.SetDeadline(deadline); err != nil {
		return nil, err
	}
	enc := tls.Client(raw, cfg)
	if err := enc.HandshakeContext(ctx); err != nil {
		return enc, err
	}
	return enc, raw.SetDeadline(time.Time{})
}
