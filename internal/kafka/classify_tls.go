package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"reflect"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// tlsError names a failure of TLS: of ours to trust the broker, or of the
// broker's to trust us.
func tlsError(op string, err error) *fault.Error {
	var (
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		cert      x509.CertificateInvalidError
		header    tls.RecordHeaderError
		at        *connError
	)
	f := func(code *fault.Code) *fault.Error { return fault.Wrap(err, code, "%s", op) }
	errors.As(err, &at)
	switch {
	case errors.As(err, &authority):
		return f(fault.KafkaCertAuthority)
	case errors.As(err, &name):
		return f(fault.KafkaCertName)
	case errors.As(err, &cert) && cert.Reason == x509.Expired:
		return f(fault.KafkaCertExpired)
	case errors.As(err, &header):
		return f(fault.KafkaPlaintextPort)
	case errors.As(err, &cert), errors.As(err, &verify):
		return f(fault.KafkaTLS).WithWhy("the broker's certificate cannot be used").
			WithFix("openssl s_client -connect <host>:<port> -showcerts </dev/null shows it")
	}
	number, sent := alertOf(err)
	switch {
	case !sent:
		return nil
	case number == alertCertificateRequired, at != nil && at.asked && !at.gave:
		return f(fault.KafkaClientCert)
	case aboutCertificate(number):
		return f(fault.KafkaClientRefused)
	}
	return f(fault.KafkaTLS).WithWhy("the broker ended the handshake with alert %d", number).
		WithFix("compare ssl.enabled.protocols and ssl.cipher.suites of the listener with TLS 1.2 and 1.3")
}

func clientCertificate(at *connError) *fault.Code {
	if at.gave {
		return fault.KafkaClientRefused
	}
	return fault.KafkaClientCert
}

// remoteAlert is the operation under which crypto/tls reports an alert that the
// other side sent.
const remoteAlert = "remote error"

// Alerts of RFC 8446, 6.2.
const (
	alertNoCertificate       = 41 // of SSL 3
	alertUnknownCA           = 48
	alertAccessDenied        = 49
	alertCertificateRequired = 116
)

// aboutCertificate tells whether an alert speaks of the certificate that it
// answers: bad, unsupported, revoked, expired, unknown, of an unknown authority
// or not allowed in.
func aboutCertificate(alert uint8) bool {
	return alert >= alertNoCertificate && alert <= 46 || alert == alertUnknownCA || alert == alertAccessDenied
}

// alertOf returns the alert that the other side sent. Its type is not exported,
// but is a number.
func alertOf(err error) (uint8, bool) {
	for err != nil {
		var op *net.OpError
		if !errors.As(err, &op) {
			return 0, false
		}
		if v := reflect.ValueOf(op.Err); op.Op == remoteAlert {
			if v.Kind() == reflect.Uint8 {
				return uint8(v.Uint()), true
			}
			return 0, true
		}
		err = op.Err
	}
	return 0, false
}
