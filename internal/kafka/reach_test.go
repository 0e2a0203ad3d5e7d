package kafka_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"go.yaml.in/yaml/v3"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/secret"
)

func TestReach(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	plain, encrypted := cluster(t)[0], cluster(t, kfake.TLS(pki.server(false)))[0]
	guarded := cluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "app", planted))[0]
	silent, gone, rude, web := deaf(t), refused(t), answering(t, ""), answering(t, "HTTP/1.1 400 Bad Request\r\n\r\n")
	const timeout = 300 * time.Millisecond
	on, nowhere := kafka.TLS{Mode: kafka.On, CAFile: pki.caFile}, "nowhere.invalid:9092"

	for _, c := range []struct {
		name    string
		brokers []string
		tls     kafka.TLS
		code    *fault.Code // nil: reached
		why     string
	}{
		{"one", []string{plain}, kafka.TLS{}, nil, ""},
		{"one of four", []string{silent, gone, nowhere, plain}, kafka.TLS{}, nil, ""},
		{"one of two, with TLS", []string{silent, encrypted}, on, nil, ""},

		{"refused", []string{gone}, kafka.TLS{}, fault.KafkaRefused, ""},
		{"name", []string{nowhere}, kafka.TLS{}, fault.KafkaNameUnknown, ""},
		{"silent", []string{silent}, kafka.TLS{}, fault.KafkaSilent, "KAFKA_CONNECTION_TIMEOUT"},
		{"silent, with TLS", []string{silent}, on, fault.KafkaSilent, "KAFKA_CONNECTION_TIMEOUT"},
		{"the one that got furthest", []string{nowhere, silent, encrypted, gone}, kafka.TLS{Mode: kafka.On}, fault.KafkaCertAuthority, ""},
		{"no SASL where it is wanted", []string{guarded}, kafka.TLS{}, fault.KafkaSASLMissing, ""},

		{"plaintext to a TLS port", []string{encrypted}, kafka.TLS{}, fault.KafkaTLSPort, ""},
		{"plaintext to a port that hangs up", []string{rude}, kafka.TLS{}, fault.KafkaClosed, "may expect TLS"},
		{"TLS to a port that hangs up", []string{rude}, on, fault.KafkaPlaintextPort, "does not answer without TLS either"},
		{"TLS to a web server", []string{web}, on, fault.KafkaPlaintextPort, "does not answer without TLS either"},
		{"plaintext to a web server", []string{web}, kafka.TLS{}, fault.KafkaNotKafka, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := kafka.Config{Brokers: c.brokers, TLS: c.tls, ConnectionTimeout: timeout}
			began := time.Now()
			err := cfg.Reach(t.Context(), "test", zerolog.Nop(), nil)
			if took := time.Since(began); took > timeout+1500*time.Millisecond {
				t.Errorf("took %s", took)
			}
			if c.code == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !fault.Has(err, c.code) || !strings.Contains(fault.As(err).Reason(), c.why) {
				t.Errorf("%v (%s), want %s (%s)", err, fault.As(err).Reason(), c.code.Name, c.why)
			}
		})
	}
}

// TLS is spoken to a listener that closes when its first bytes are no request:
// what Kafka does. The second look finds Kafka there.
func TestReachFindsThePlaintextPort(t *testing.T) {
	t.Parallel()
	behind := cluster(t)[0]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			relayUnlessTLS(c, behind)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	cfg := kafka.Config{Brokers: []string{l.Addr().String()}, TLS: kafka.TLS{Mode: kafka.On}, ConnectionTimeout: time.Second}
	err = cfg.Reach(t.Context(), "test", zerolog.Nop(), nil)
	if !fault.Has(err, fault.KafkaPlaintextPort) || !strings.Contains(fault.As(err).Reason(), "as a plaintext listener does") {
		t.Errorf("%v: %s", err, fault.As(err).Reason())
	}
}

func relayUnlessTLS(c net.Conn, to string) {
	defer c.Close()
	head := make([]byte, 1<<12)
	n, err := c.Read(head)
	if err != nil || head[0] == 0x16 {
		return
	}
	b, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer b.Close()
	if _, err := b.Write(head[:n]); err != nil {
		return
	}
	if n, err = b.Read(head); err == nil {
		_, _ = c.Write(head[:n])
	}
}

func TestReachIsStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	cfg := kafka.Config{Brokers: []string{deaf(t)}, ConnectionTimeout: time.Second}
	began := time.Now()
	if err := cfg.Reach(ctx, "test", zerolog.Nop(), nil); err == nil {
		t.Error("it was reached")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
}

// What is wrong is said after one attempt, not after a second one.
func TestReachTriesOnce(t *testing.T) {
	t.Parallel()
	for name, on := range map[string]kafka.Switch{"plaintext": kafka.Off, "TLS": kafka.On} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var held []net.Conn
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				held = append(held, c)
			}
		}()
		cfg := kafka.Config{Brokers: []string{l.Addr().String()}, TLS: kafka.TLS{Mode: on}, ConnectionTimeout: 200 * time.Millisecond}
		err = cfg.Reach(t.Context(), "test", zerolog.Nop(), nil)
		l.Close()
		<-done
		if !fault.Has(err, fault.KafkaSilent) || len(held) != 1 {
			t.Errorf("%s: %v after %d connections", name, err, len(held))
		}
		for _, c := range held {
			c.Close()
		}
	}
}

// The time-out of the dial ends with it: an answer may take longer.
func TestSlowAnswerOfAnOpenConnection(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.SleepControl(func() { time.Sleep(400 * time.Millisecond) })
		return nil, nil, false
	})
	cfg := kafka.Config{Brokers: c.ListenAddrs(), ConnectionTimeout: 200 * time.Millisecond}
	if err := ping(t, cfg, nil, io.Discard); err != nil {
		t.Error(err)
	}
}

// A broker tells clients of an address that cannot be reached from here. Who
// reads there learns nothing but that time is up.
func TestTraceExplains(t *testing.T) {
	t.Parallel()
	c := start(t)
	gone := refused(t)
	host, port, _ := net.SplitHostPort(gone)
	n, _ := strconv.Atoi(port)
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = 77, host, int32(n)
		resp.Brokers, resp.ControllerID = append(resp.Brokers, b), 77
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic = kmsg.StringPtr("events")
		partition := kmsg.NewMetadataResponseTopicPartition()
		partition.Leader, partition.Replicas, partition.ISR = 77, []int32{77}, []int32{77}
		topic.Partitions = append(topic.Partitions, partition)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	trace := kafka.NewTrace()
	cfg := kafka.Config{Brokers: c.ListenAddrs(), Trace: trace}
	if err := cfg.Reach(t.Context(), "test", zerolog.Nop(), nil); err != nil {
		t.Fatalf("the broker itself is not reached: %v", err)
	}
	opts, err := cfg.Options("test", zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"events": {0: kgo.NewOffset().AtStart()}}))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	plain := kafka.Classify("read events", cl.PollFetches(ctx).Err())
	if !fault.Has(plain, fault.KafkaSilent) {
		t.Errorf("untold, it is %v", plain)
	}
	named := trace.Explain(plain)
	if !fault.Has(named, fault.KafkaRefused) || !strings.Contains(named.Error(), gone) || !strings.Contains(named.Error(), "read events") {
		t.Errorf("%v explained as %v", plain, named)
	}
	// What speaks for itself stays, and so does everything without a trace.
	for _, err := range []error{nil, errors.New("x"), fault.New(fault.KafkaDenied, "x"), context.Canceled} {
		if got := trace.Explain(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	if got := (*kafka.Trace)(nil).Explain(plain); got != plain {
		t.Errorf("no trace: %v", got)
	}
}

// A broker that lets us in explains nothing any more.
func TestTraceForgets(t *testing.T) {
	t.Parallel()
	trace := kafka.NewTrace()
	pki := newPKI(t)
	cfg := kafka.Config{Brokers: cluster(t, kfake.TLS(pki.server(false))), TLS: kafka.TLS{Mode: kafka.On}, Trace: trace}
	vague := fault.New(fault.KafkaUnavailable, "x")
	if err := cfg.Reach(t.Context(), "test", zerolog.Nop(), nil); err == nil {
		t.Fatal("let in")
	}
	if got := trace.Explain(vague); !fault.Has(got, fault.KafkaCertAuthority) {
		t.Errorf("explained as %v", got)
	}
	cfg.TLS.CAFile = pki.caFile
	if err := cfg.Reach(t.Context(), "test", zerolog.Nop(), nil); err != nil {
		t.Fatal(err)
	}
	if got := trace.Explain(vague); got != error(vague) {
		t.Errorf("explained as %v", got)
	}
}

// The library's own "too old" is a value that it keeps to itself.
func TestBrokerTooOld(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.MaxVersions(kversion.V2_4_0()))
	cfg := kafka.Config{Brokers: c}
	opts, err := cfg.Options("test", zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	_, err = cl.SeedBrokers()[0].Request(t.Context(), kmsg.NewPtrDescribeTransactionsRequest())
	if got := kafka.Classify("describe", err); err == nil || !fault.Has(got, fault.KafkaVersion) {
		t.Errorf("%v is %v", err, got)
	}
	if got := kafka.Classify("x", errors.New(err.Error())); fault.Has(got, fault.KafkaVersion) {
		t.Error("another error with the same words is taken for it")
	}
}

// The other mechanisms: a token, and a signature that names its region.
func TestOtherMechanisms(t *testing.T) {
	t.Parallel()
	for _, s := range []kafka.SASL{
		{Mechanism: "OAUTHBEARER", Password: secret.New(planted)},
		{Mechanism: "aws_msk_iam", Username: "key", Password: secret.New(planted), SessionToken: secret.New(planted)},
	} {
		cfg := kafka.Config{Brokers: []string{"b-1.x.kafka.us-east-1.amazonaws.com:9098"}, SASL: s}
		if faults := cfg.Validate(); len(faults) > 0 {
			t.Errorf("%s: %v", s.Mechanism, faults[0])
		}
		if _, err := cfg.Options("test", zerolog.Nop(), nil); err != nil {
			t.Errorf("%s: %v", s.Mechanism, err)
		}
	}
}

// A renewed authority and a rotated password are in use at the next
// connection, without a restart.
func TestFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	pki, other := newPKI(t), newPKI(t)
	dir := t.TempDir()
	caFile, passFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "password")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copyOf := func(file string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	write(caFile, copyOf(other.caFile))
	write(passFile, "old")
	cfg := kafka.Config{
		Brokers: cluster(t, kfake.TLS(pki.server(false)), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "app", planted)),
		TLS:     kafka.TLS{Mode: kafka.On, CAFile: caFile}, ConnectionTimeout: time.Second,
		SASL: kafka.SASL{Mechanism: "scram-sha-256", Username: "app", PasswordFile: passFile},
	}
	opts, err := cfg.Options("test", zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(append(opts, kgo.RequestRetries(0))...) // one, for the whole test
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := kafka.Classify("ping", cl.Ping(t.Context())); !fault.Has(err, fault.KafkaCertAuthority) {
		t.Errorf("with another authority: %v", err)
	}
	write(caFile, copyOf(pki.caFile))
	if err := kafka.Classify("ping", cl.Ping(t.Context())); err == nil || fault.CodeOf(err).Connection() == "tls" {
		t.Errorf("with the right authority and the old password: %v", err)
	}
	write(passFile, planted)
	if err := cl.Ping(t.Context()); err != nil {
		t.Errorf("with both: %v", err)
	}
}

// No printer shows what the configuration keeps secret, whatever holds it.
func TestConfigurationIsPrintedWithoutSecrets(t *testing.T) {
	t.Parallel()
	cfg := kafka.Config{Brokers: []string{"a:1"}, SASL: kafka.SASL{
		Mechanism: "aws-msk-iam", Username: "u", Password: secret.New(planted), SessionToken: secret.New(planted),
	}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+"\n", cfg, &cfg)
	}
	js, err := json.Marshal(cfg)
	ym, err2 := yaml.Marshal(cfg)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	out.Write(js)
	out.Write(ym)
	z := zerolog.New(&out)
	z.Info().Interface("cfg", cfg).Any("p", &cfg).Msg(fmt.Sprint(cfg))
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "cfg", cfg, "p", &cfg, "sasl", cfg.SASL)
	}
	for _, leak := range []string{planted, fmt.Sprintf("%x", planted), base64.StdEncoding.EncodeToString([]byte(planted))} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printed:\n%s", &out)
		}
	}
	if strings.Count(out.String(), secret.Token) < 10 {
		t.Errorf("nothing was printed:\n%s", &out)
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	on := kafka.TLS{Mode: kafka.On, CAFile: pki.caFile}
	for _, c := range []struct {
		name   string
		broker string
		tls    kafka.TLS
		code   *fault.Code
	}{
		{"plaintext", cluster(t)[0], kafka.TLS{}, nil},
		{"with SASL, without a user", cluster(t, kfake.EnableSASL())[0], kafka.TLS{}, nil},
		{"with TLS", cluster(t, kfake.TLS(pki.server(false)))[0], on, nil},
		{"old", cluster(t, kfake.MaxVersions(kversion.V2_2_0()))[0], kafka.TLS{}, nil},
		{"silent", deaf(t), kafka.TLS{}, fault.KafkaSilent},
		{"web server", answering(t, "HTTP/1.1 400 Bad Request\r\n\r\n"), kafka.TLS{}, fault.KafkaNotKafka},
		{"babble", answering(t, "\x00\x00\x00\x04babble"), kafka.TLS{}, fault.KafkaNotKafka},
		{"nonsense of the right form", answering(t, "\x00\x00\x00\x08\x00\x00\x00\x03\x00\x00\xff\xff"), kafka.TLS{}, fault.KafkaNotKafka},
		{"hangs up", answering(t, ""), kafka.TLS{}, fault.KafkaClosed},
		{"no client certificate", cluster(t, kfake.TLS(pki.server(true)))[0], on, fault.KafkaClientCert},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := kafka.Config{Brokers: []string{c.broker}, TLS: c.tls, ConnectionTimeout: 300 * time.Millisecond}
			resp, err := cfg.Versions(t.Context(), c.broker)
			switch {
			case c.code == nil && (err != nil || len(resp.ApiKeys) < 20):
				t.Errorf("%v, %v", resp, err)
			case c.code != nil && !fault.Has(kafka.Classify("x", err), c.code):
				t.Errorf("%v, want %s", kafka.Classify("x", err), c.code.Name)
			}
		})
	}
	if err := kafka.Classify("x", kafka.HandshakeFailed("a:1", io.EOF)); !fault.Has(err, fault.KafkaPlaintextPort) {
		t.Error(err)
	}
}
