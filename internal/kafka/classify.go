package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Classify names what a client returned; op is a short clause of what was
// tried. An error that has a code keeps it, nil stays nil, and a cancelled
// context stays a cancelled context: being told to stop is no failure. What is
// not known is Unclassified, which halts.
//
// Order matters. Our own marks come first, then Kafka's codes, which are what
// a broker said; then TLS, which hides inside network errors; then the network.
func Classify(op string, err error) error {
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", op, err)
	}
	for _, ask := range []func(string, error) *fault.Error{ownError, brokerError, tlsError, networkError, clientError} {
		if f := ask(op, err); f != nil {
			return f
		}
	}
	return fault.Wrap(err, fault.Unclassified, "%s", op)
}

func ownError(op string, err error) *fault.Error {
	if e := (*tlsFileError)(nil); errors.As(err, &e) {
		return fault.Wrap(err, fault.KafkaTLS, "%s", op).WithWhy("a certificate file cannot be used").
			WithFix("check KAFKA_TLS_CA_FILE, KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE")
	}
	if e := (*saslFileError)(nil); errors.As(err, &e) {
		return fault.Wrap(err, fault.KafkaAuth, "%s", op).WithWhy("the password file cannot be used").
			WithFix("check KAFKA_SASL_PASSWORD_FILE")
	}
	return nil
}

// brokerError names what a broker answered.
func brokerError(op string, err error) *fault.Error {
	var answer *kerr.Error
	if !errors.As(err, &answer) {
		return nil
	}
	if code, ok := brokerCodes[answer.Code]; ok {
		f := fault.Wrap(err, code, "%s", op)
		switch answer.Code {
		case kerr.UnsupportedSaslMechanism.Code:
			f = f.WithWhy("the listener does not offer this mechanism").WithFix("set KAFKA_SASL_MECHANISM to one of the listener's sasl.enabled.mechanisms")
		case kerr.IllegalSaslState.Code:
			f = f.WithWhy("the listener does not expect SASL, or a request came before it").WithFix("compare KAFKA_SASL_MECHANISM with the listener's protocol")
		}
		return f
	}
	if answer.Retriable {
		return fault.Wrap(err, fault.KafkaUnavailable, "%s", op).WithWhy("a broker answered %s", answer.Message)
	}
	return fault.Wrap(err, fault.Unclassified, "%s", op).WithWhy("a broker answered %s, for which the relay has no rule", answer.Message)
}

// remoteAlert is the operation under which crypto/tls reports an alert that the
// other side sent; the type of the alert itself is not exported.
const remoteAlert = "remote error"

func tlsError(op string, err error) *fault.Error {
	var (
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		cert      x509.CertificateInvalidError
		header    tls.RecordHeaderError
		alert     *net.OpError
	)
	f := func() *fault.Error { return fault.Wrap(err, fault.KafkaTLS, "%s", op) }
	switch {
	case errors.As(err, &authority):
		return f().WithWhy("the broker's certificate is signed by an authority that is not trusted here").
			WithFix("KAFKA_TLS_CA_FILE=<PEM file of that authority>")
	case errors.As(err, &name):
		return f().WithWhy("the broker's certificate is for another name").
			WithFix("use a name of the certificate in KAFKA_BROKERS, or set KAFKA_TLS_SERVER_NAME")
	case errors.As(err, &cert) && cert.Reason == x509.Expired:
		return f().WithWhy("the broker's certificate has expired or is not yet valid").
			WithFix("renew it, and compare the clocks")
	case errors.As(err, &header):
		return f().WithWhy("the broker does not speak TLS on this port").
			WithFix("KAFKA_TLS=false, or use the port of the TLS listener")
	case errors.As(err, &alert) && alert.Op == remoteAlert:
		return f().WithWhy("the broker ended the handshake; it may ask for a client certificate").
			WithFix("set KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE")
	case errors.As(err, &cert), errors.As(err, &verify):
		return f()
	}
	return nil
}

func networkError(op string, err error) *fault.Error {
	f := func() *fault.Error { return fault.Wrap(err, fault.KafkaUnreachable, "%s", op) }
	var (
		name  *net.DNSError
		first *kgo.ErrFirstReadEOF
		netOp *net.OpError
		sys   *os.SyscallError
	)
	switch {
	case errors.As(err, &name) && name.IsNotFound:
		return f().WithWhy("the name of a broker does not resolve").
			WithFix("getent hosts %s; correct KAFKA_BROKERS, or the broker's advertised.listeners", name.Name)
	case errors.As(err, &name):
		return f().WithWhy("the resolver gave no answer for the name of a broker").
			WithFix("check the resolver of this host: getent hosts %s", name.Name)
	case errors.As(err, &first):
		return f().WithWhy("a broker closed the connection at once, as it does when one side speaks TLS or SASL and the other does not").
			WithFix("compare KAFKA_TLS and KAFKA_SASL_MECHANISM with the protocol of the listener")
	case errors.Is(err, syscall.ECONNREFUSED):
		return f().WithWhy("nothing listens on the address of a broker").
			WithFix("check that the broker runs and that host and port are right")
	case isTimeout(err):
		return f().WithWhy("a broker did not answer in time: it is overloaded, or packets are dropped on the way").
			WithFix("check firewalls; raise KAFKA_CONNECTION_TIMEOUT or KAFKA_REQUEST_TIMEOUT if the way is long")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return f().WithWhy("the connection to a broker was cut")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return f().WithWhy("there is no route to a broker")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return f().WithWhy("the connection to a broker ended")
	case errors.As(err, &netOp), errors.As(err, &sys):
		return f()
	}
	return nil
}

// clientError names what the client library itself says.
func clientError(op string, err error) *fault.Error {
	switch {
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, kgo.ErrRecordRetries),
		errors.Is(err, kgo.ErrAborting), errors.Is(err, kgo.ErrClientClosed):
		return fault.Wrap(err, fault.TransactionFailed, "%s", op)
	case kgo.IsRetryableBrokerErr(err):
		// A broker that vanished from the metadata, a coordinator that is not
		// known yet: types the library keeps to itself, but answers for.
		return fault.Wrap(err, fault.KafkaUnavailable, "%s", op)
	}
	return nil
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT) || errors.As(err, &n) && n.Timeout()
}
