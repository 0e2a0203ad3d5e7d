package kafka

import (
	"context"
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
	for _, ask := range []func(string, error) *fault.Error{ownError, brokerError, tlsError, openingError, networkError, clientError} {
		if f := ask(op, err); f != nil {
			return f
		}
	}
	return fault.Wrap(err, fault.Unclassified, "%s", op)
}

func ownError(op string, err error) *fault.Error {
	var (
		files    *tlsFileError
		password *saslFileError
		exchange *saslError
	)
	switch {
	case errors.As(err, &files):
		return fault.Wrap(err, fault.KafkaTLSFile, "%s", op)
	case errors.As(err, &password):
		return fault.Wrap(err, fault.KafkaSASLFile, "%s", op)
	case errors.As(err, &exchange) && exchange.refused:
		return fault.Wrap(err, fault.KafkaAuth, "%s", op)
	case errors.As(err, &exchange):
		return fault.Wrap(err, fault.KafkaSASLExchange, "%s", op)
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
		return fault.Wrap(err, code, "%s", op)
	}
	if answer.Retriable {
		return fault.Wrap(err, fault.KafkaUnavailable, "%s", op).WithWhy("a broker answered %s", answer.Message)
	}
	return fault.Wrap(err, fault.Unclassified, "%s", op).WithWhy("a broker answered %s, for which the relay has no rule", answer.Message)
}

// openingError names what ended a connection before it was of use, where the
// stage it had reached tells more than the error.
func openingError(op string, err error) *fault.Error {
	var at *connError
	if !errors.As(err, &at) {
		return nil
	}
	f := func(code *fault.Code) *fault.Error { return fault.Wrap(err, code, "%s", op) }
	switch {
	case at.stage == alienTLS && !at.tls:
		return f(fault.KafkaTLSPort)
	case at.stage == alienTLS, at.stage == alien:
		return f(fault.KafkaNotKafka)
	case at.stage != dialling && isTimeout(err):
		return f(fault.KafkaSilent).WithWhy("%s took the connection, and did not answer within KAFKA_CONNECTION_TIMEOUT", at.addr)
	case at.stage == handshaking && isCut(err):
		// A plaintext listener reads the greeting of TLS as a length that is
		// out of bounds, and hangs up.
		return f(fault.KafkaPlaintextPort).WithWhy("%s closed the connection when TLS was spoken, as a plaintext listener does", at.addr)
	case at.stage == opening && isCut(err) && at.asked && at.first:
		return f(clientCertificate(at))
	case at.stage == opening && isCut(err) && at.first:
		return closedAtOnce(f(fault.KafkaClosed), at)
	}
	return nil
}

func closedAtOnce(f *fault.Error, at *connError) *fault.Error {
	if at.tls {
		return f.WithWhy("%s closed the connection after the TLS handshake and before its first answer: what ends TLS there may not reach a broker", at.addr).
			WithFix("check what stands behind the port: a load balancer without a broker, or another service")
	}
	return f
}

func networkError(op string, err error) *fault.Error {
	f := func(code *fault.Code) *fault.Error { return fault.Wrap(err, code, "%s", op) }
	var (
		name  *net.DNSError
		first *kgo.ErrFirstReadEOF
		at    *connError
		netOp *net.OpError
		sys   *os.SyscallError
	)
	opening := errors.As(err, &at)
	switch {
	case errors.As(err, &name) && name.IsNotFound:
		return f(fault.KafkaNameUnknown).WithFix("getent hosts %s; correct KAFKA_BROKERS, or the broker's advertised.listeners", name.Name)
	case errors.As(err, &name):
		return f(fault.KafkaResolver).WithFix("check the resolver of this host: cat /etc/resolv.conf; getent hosts %s", name.Name)
	case errors.As(err, &first):
		// The broker answered which versions it speaks, which it does for
		// strangers too, and hung up at the first request behind that.
		return f(fault.KafkaSASLMissing)
	case errors.Is(err, syscall.ECONNREFUSED):
		return f(fault.KafkaRefused)
	case isTimeout(err) && (opening || errors.As(err, &netOp) && netOp.Op == "dial"):
		return f(fault.KafkaTimeout)
	case errors.As(err, &netOp) && isTimeout(err):
		return f(fault.KafkaSilent).WithWhy("a broker did not answer a request in time")
	case isTimeout(err):
		return f(fault.KafkaSilent).WithWhy("there was no answer within the time that was given")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return f(fault.KafkaNoRoute)
	case isCut(err), errors.Is(err, net.ErrClosed):
		return f(fault.KafkaReset)
	case errors.As(err, &netOp), errors.As(err, &sys):
		return f(fault.KafkaUnreachable)
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
	case isTooOld(err):
		return fault.Wrap(err, fault.KafkaVersion, "%s", op).WithWhy("a broker does not know this request")
	}
	return nil
}

// isCut tells whether the other side ended the connection.
func isCut(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT) || errors.As(err, &n) && n.Timeout()
}
