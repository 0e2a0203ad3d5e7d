package kafka_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

func dial(err error) error {
	return fmt.Errorf("unable to dial: %w", &net.OpError{Op: "dial", Net: "tcp", Err: err})
}

// number is what an alert is: crypto/tls does not export its type.
type number uint8

func (n number) Error() string { return "tls: alert" }

func alert(n uint8) error { return &net.OpError{Op: "remote error", Err: number(n)} }

func TestClassify(t *testing.T) {
	t.Parallel()
	sys := func(no syscall.Errno) error { return os.NewSyscallError("connect", no) }
	for _, c := range []struct {
		name string
		err  error
		code *fault.Code
		kind string
		fix  string // part of the remedy that this case must have
	}{
		{"name unknown", dial(&net.DNSError{Err: "no such host", Name: "kafka", IsNotFound: true}), fault.KafkaNameUnknown, "dial", "getent hosts kafka"},
		{"resolver down", dial(&net.DNSError{Err: "server misbehaving", Name: "kafka"}), fault.KafkaResolver, "dial", "resolver"},
		{"resolver slow", dial(&net.DNSError{Err: "i/o timeout", Name: "kafka", IsTimeout: true}), fault.KafkaResolver, "dial", "resolver"},
		{"refused", dial(sys(syscall.ECONNREFUSED)), fault.KafkaRefused, "dial", "broker runs"},
		{"timeout", dial(os.ErrDeadlineExceeded), fault.KafkaTimeout, "timeout", "firewalls"},
		{"timeout of the system", dial(sys(syscall.ETIMEDOUT)), fault.KafkaTimeout, "timeout", "firewalls"},
		{"timeout of an answer", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, fault.KafkaSilent, "timeout", "KAFKA_REQUEST_TIMEOUT"},
		{"timeout of the caller", context.DeadlineExceeded, fault.KafkaSilent, "timeout", ""},
		{"reset", &net.OpError{Op: "read", Err: sys(syscall.ECONNRESET)}, fault.KafkaReset, "dial", ""},
		{"no route", dial(sys(syscall.EHOSTUNREACH)), fault.KafkaNoRoute, "dial", "ip route"},
		{"cut", io.EOF, fault.KafkaReset, "dial", ""},
		{"cut in a frame", io.ErrUnexpectedEOF, fault.KafkaReset, "dial", ""},
		{"closed at the first request", &kgo.ErrFirstReadEOF{}, fault.KafkaSASLMissing, "sasl", "KAFKA_SASL_MECHANISM"},
		{"other system error", dial(sys(syscall.EMFILE)), fault.KafkaUnreachable, "dial", ""},

		{"authority", dial(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), fault.KafkaCertAuthority, "tls", "KAFKA_TLS_CA_FILE"},
		{"name of certificate", dial(&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}}), fault.KafkaCertName, "tls", "KAFKA_TLS_SERVER_NAME"},
		{"expired", &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}, fault.KafkaCertExpired, "tls", "renew"},
		{"not for servers", &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}}, fault.KafkaTLS, "tls", "openssl"},
		{"verification", &tls.CertificateVerificationError{Err: errors.New("x")}, fault.KafkaTLS, "tls", ""},
		{"plaintext port", tls.RecordHeaderError{}, fault.KafkaPlaintextPort, "tls", "KAFKA_TLS=false"},
		{"alert: certificate required", alert(116), fault.KafkaClientCert, "tls", "KAFKA_TLS_CERT_FILE"},
		{"alert: bad certificate", alert(42), fault.KafkaClientRefused, "tls", "truststore"},
		{"alert: unknown authority", alert(48), fault.KafkaClientRefused, "tls", "truststore"},
		{"alert: no common cipher", alert(40), fault.KafkaTLS, "tls", "ssl.enabled.protocols"},
		{"alert: protocol version", dial(alert(70)), fault.KafkaTLS, "tls", "ssl.enabled.protocols"},
		{"alert of a type unknown", &net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, fault.KafkaTLS, "tls", ""},

		{"password", kerr.SaslAuthenticationFailed, fault.KafkaAuth, "sasl", "KAFKA_SASL_PASSWORD"},
		{"mechanism", kerr.UnsupportedSaslMechanism, fault.KafkaSASLMechanism, "sasl", "enabled.mechanisms"},
		{"no SASL wanted", kerr.IllegalSaslState, fault.KafkaSASLUnwanted, "sasl", "unset KAFKA_SASL_MECHANISM"},
		{"topic right", fmt.Errorf("produce: %w", kerr.TopicAuthorizationFailed), fault.KafkaDenied, "authz", "grant"},
		{"id right", kerr.TransactionalIDAuthorizationFailed, fault.KafkaDenied, "authz", ""},
		{"cluster right", kerr.ClusterAuthorizationFailed, fault.KafkaDenied, "authz", ""},
		{"group right", kerr.GroupAuthorizationFailed, fault.KafkaDenied, "authz", ""},

		{"topic", kerr.UnknownTopicOrPartition, fault.KafkaTopicMissing, "other", "KAFKA_CREATE_TOPICS"},
		{"version", kerr.UnsupportedVersion, fault.KafkaVersion, "protocol", ""},
		{"transaction timeout", kerr.InvalidTransactionTimeout, fault.KafkaSetting, "other", "KAFKA_TRANSACTION_TIMEOUT"},
		{"fenced", kerr.ProducerFenced, fault.Fenced, "other", ""},
		{"older epoch", kerr.InvalidProducerEpoch, fault.Fenced, "other", ""},
		{"state", kerr.InvalidTxnState, fault.TransactionFailed, "other", ""},
		{"abortable", kerr.TransactionAbortable, fault.TransactionFailed, "other", ""},
		{"sequence", kerr.OutOfOrderSequenceNumber, fault.TransactionFailed, "other", ""},
		{"replicas", kerr.NotEnoughReplicas, fault.KafkaUnavailable, "other", "min.insync.replicas"},
		{"leader moves", kerr.NotLeaderForPartition, fault.KafkaUnavailable, "other", ""},
		{"coordinator loads", kerr.CoordinatorLoadInProgress, fault.KafkaUnavailable, "other", ""},
		{"broker time-out", kerr.RequestTimedOut, fault.KafkaUnavailable, "other", ""},

		{"record", kerr.MessageTooLarge, fault.RowTooLarge, "other", ""},
		{"topic name", kerr.InvalidTopicException, fault.RowTopic, "other", ""},
		{"timestamp", kerr.InvalidTimestamp, fault.RowRefused, "other", ""},

		{"client closed", kgo.ErrClientClosed, fault.TransactionFailed, "other", ""},
		{"record time-out", kgo.ErrRecordTimeout, fault.TransactionFailed, "other", ""},

		{"unknown answer", kerr.InvalidRequest, fault.Unclassified, "other", ""},
		{"server error", kerr.UnknownServerError, fault.Unclassified, "other", ""},
		{"anything", errors.New("connection refused: SASL TLS timeout"), fault.Unclassified, "other", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := kafka.Classify("open the producer", c.err)
			if code := fault.CodeOf(got); code != c.code {
				t.Errorf("code %s, want %s", code.Name, c.code.Name)
			}
			if !errors.Is(got, c.err) {
				t.Error("the cause is lost")
			}
			f := fault.As(got)
			if !strings.Contains(f.Detail, "open the producer") {
				t.Errorf("detail %q does not say what was tried", f.Detail)
			}
			if f.Reason() == "" || !strings.Contains(f.Remedy(), c.fix) {
				t.Errorf("why %q, fix %q lacks %q", f.Reason(), f.Remedy(), c.fix)
			}
			if connection := fault.IsConnection(got); connection != (c.kind != "other") {
				t.Errorf("a connection fault: %t", connection)
			}
			if kind := kafka.ErrorType(c.err); kind != c.kind {
				t.Errorf("type %s, want %s", kind, c.kind)
			}
		})
	}
}

func TestClassifyKeeps(t *testing.T) {
	t.Parallel()
	if kafka.Classify("x", nil) != nil {
		t.Error("nil became an error")
	}
	stop := kafka.Classify("x", fmt.Errorf("wait: %w", context.Canceled))
	var f *fault.Error
	if !errors.Is(stop, context.Canceled) || errors.As(stop, &f) {
		t.Errorf("a cancelled context became %v", stop)
	}
	coded := fmt.Errorf("inner: %w", fault.New(fault.Fenced, "x"))
	if got := kafka.Classify("outer", coded); got != coded {
		t.Errorf("a coded error became %v", got)
	}
}

// Every retriable answer of a broker retries, so that a rolling restart never
// needs a person.
func TestRetriableAnswersRetry(t *testing.T) {
	t.Parallel()
	for code := int16(1); code < 200; code++ {
		err := kerr.ErrorForCode(code)
		var answer *kerr.Error
		if !errors.As(err, &answer) || !kerr.IsRetriable(err) {
			continue
		}
		if class := fault.CodeOf(kafka.Classify("x", err)).Class; class != fault.Retry {
			t.Errorf("%s is of class %s", answer.Message, class)
		}
	}
}
