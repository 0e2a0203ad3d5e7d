package kafka_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/secret"
)

const planted = "pl4nted-Passw0rd"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// output is a log that several goroutines write.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}
func (o *output) String() string { o.mu.Lock(); defer o.mu.Unlock(); return o.buf.String() }

func cluster(t *testing.T, opts ...kfake.Opt) []string { return start(t, opts...).ListenAddrs() }

func start(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1), kfake.SeedTopics(1, "events"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// ping opens a client with the configuration and asks for a broker.
func ping(t *testing.T, cfg kafka.Config, m *kafka.Metrics, out io.Writer) error {
	t.Helper()
	opts, err := cfg.Options("test", zerolog.New(out).Level(zerolog.TraceLevel), m)
	if err != nil {
		return err
	}
	// What is wrong stays wrong: no second try.
	cl, err := kgo.NewClient(append(opts, kgo.RequestRetries(0), kgo.RetryTimeout(time.Second))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return kafka.Classify("ask for the brokers", cl.Ping(ctx))
}

func TestOptionsConnect(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	passFile := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passFile, []byte(planted+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := cluster(t)
	encrypted := cluster(t, kfake.TLS(pki.server(false)))
	other, asking := newPKI(t), pki.server(true)
	mutual := cluster(t, kfake.TLS(asking))
	// With 1.3 the client hears of it only at its first read.
	asking12 := asking.Clone()
	asking12.MaxVersion = tls.VersionTLS12
	mutual12 := cluster(t, kfake.TLS(asking12))
	old := cluster(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pki.expired}, MinVersion: tls.VersionTLS12}))
	guarded := cluster(t, kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "app", planted), kfake.Superuser("SCRAM-SHA-256", "app", planted), kfake.Superuser("SCRAM-SHA-512", "app", planted))
	// The in-process broker hangs up on a wrong password; Kafka says so.
	rejecting := start(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "app", planted))
	rejecting.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		rejecting.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		return resp, nil, true
	})
	// Whoever does not know the password cannot sign what the client sent.
	impostor := start(t, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "app", planted))
	impostor.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		impostor.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.SASLAuthBytes = []byte("r=nonsense,s=" + planted + ",i=4096")
		return resp, nil, true
	})
	silent := deaf(t)
	rude := answering(t, "")
	web := answering(t, "HTTP/1.1 400 Bad Request\r\n\r\n")
	gone := refused(t)

	user := func(mech, pass string) kafka.SASL {
		return kafka.SASL{Mechanism: mech, Username: "app", Password: secret.New(pass)}
	}
	for _, c := range []struct {
		name string
		cfg  kafka.Config
		code *fault.Code // nil: it connects
		kind string
	}{
		{"plaintext", kafka.Config{Brokers: plain}, nil, ""},
		{"tls", kafka.Config{Brokers: encrypted, TLS: kafka.TLS{Mode: kafka.On, CAFile: pki.caFile}}, nil, ""},
		{"tls, any certificate", kafka.Config{Brokers: encrypted, TLS: kafka.TLS{Mode: kafka.On, InsecureSkipVerify: true}}, nil, ""},
		{"mutual tls", kafka.Config{Brokers: mutual, TLS: kafka.TLS{Mode: kafka.On, CAFile: pki.caFile, CertFile: pki.certFile, KeyFile: pki.keyFile}}, nil, ""},
		{"plain", kafka.Config{Brokers: guarded, SASL: user("PLAIN", planted)}, nil, ""},
		{"scram 256", kafka.Config{Brokers: guarded, SASL: user("scram-sha-256", planted)}, nil, ""},
		{"scram 512, other spelling", kafka.Config{Brokers: guarded, SASL: user("SCRAM_SHA_512", planted)}, nil, ""},
		{"password from a file", kafka.Config{Brokers: guarded, SASL: kafka.SASL{Mechanism: "plain", Username: "app", PasswordFile: passFile}}, nil, ""},

		{"unknown authority", kafka.Config{Brokers: encrypted, TLS: kafka.TLS{Mode: kafka.On}}, fault.KafkaCertAuthority, "tls"},
		{"other name", kafka.Config{Brokers: encrypted, TLS: kafka.TLS{Mode: kafka.On, CAFile: pki.caFile, ServerName: "other.example"}}, fault.KafkaCertName, "tls"},
		{"expired", kafka.Config{Brokers: old, TLS: kafka.TLS{Mode: kafka.On, CAFile: pki.caFile}}, fault.KafkaCertExpired, "tls"},
		{"no client certificate", kafka.Config{Brokers: mutual, TLS: kafka.TLS{Mode: kafka.On, CAFile: pki.caFile}}, fault.KafkaClientCert, "tls"},
		{"no client certificate, TLS 1.2", kafka.Config{Brokers: mutual12, TLS: kafka.TLS{Mode: kafka.On, CAFile: pki.caFile}}, fault.KafkaClientCert, "tls"},
		{"client certificate of another", kafka.Config{Brokers: mutual, TLS: kafka.TLS{Mode: kafka.On, CAFile: pki.caFile, CertFile: other.certFile, KeyFile: other.keyFile}}, fault.KafkaClientRefused, "tls"},
		{"authority file is gone", kafka.Config{Brokers: encrypted, TLS: kafka.TLS{Mode: kafka.On, CAFile: pki.caFile + ".gone"}}, fault.KafkaTLSFile, "tls"},
		{"tls to a port that hangs up", kafka.Config{Brokers: []string{rude}, TLS: kafka.TLS{Mode: kafka.On}}, fault.KafkaPlaintextPort, "tls"},
		{"tls to a web server", kafka.Config{Brokers: []string{web}, TLS: kafka.TLS{Mode: kafka.On}}, fault.KafkaPlaintextPort, "tls"},
		{"plaintext to tls", kafka.Config{Brokers: encrypted}, fault.KafkaClosed, "dial"}, // in doubt: see TestReach
		{"plaintext to a port that hangs up", kafka.Config{Brokers: []string{rude}}, fault.KafkaClosed, "dial"},
		{"plaintext to a web server", kafka.Config{Brokers: []string{web}}, fault.KafkaNotKafka, "protocol"},
		{"wrong password", kafka.Config{Brokers: rejecting.ListenAddrs(), SASL: user("plain", planted+"x")}, fault.KafkaAuth, "sasl"},
		{"a broker that does not know the password", kafka.Config{Brokers: impostor.ListenAddrs(), SASL: user("scram-sha-256", planted)}, fault.KafkaSASLExchange, "sasl"},
		{"password file is gone", kafka.Config{Brokers: guarded, SASL: kafka.SASL{Mechanism: "plain", Username: "app", PasswordFile: passFile + ".gone"}}, fault.KafkaSASLFile, "sasl"},
		{"refused", kafka.Config{Brokers: []string{gone}}, fault.KafkaRefused, "dial"},
		{"name", kafka.Config{Brokers: []string{"nowhere.invalid:9092"}}, fault.KafkaNameUnknown, "dial"},
		{"deaf", kafka.Config{Brokers: []string{silent}, ConnectionTimeout: 200 * time.Millisecond}, fault.KafkaSilent, "timeout"},
		{"deaf in the handshake", kafka.Config{Brokers: []string{silent}, TLS: kafka.TLS{Mode: kafka.On}, ConnectionTimeout: 200 * time.Millisecond}, fault.KafkaSilent, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			reg := prometheus.NewRegistry()
			out := new(output)
			err := ping(t, c.cfg, kafka.NewMetrics(reg), out)
			switch {
			case c.code == nil && err != nil:
				t.Fatalf("%v\n%s", err, out)
			case c.code != nil && fault.CodeOf(err) != c.code:
				t.Errorf("%v, want %s\n%s", err, c.code.Name, out)
			}
			if err != nil {
				fmt.Fprintf(out, "%v %+v\n", err, c.cfg)
			}
			if strings.Contains(out.String(), planted) {
				t.Errorf("the log holds the password:\n%s", out)
			}
			if got := value(t, reg, "kafka_connections_total", ""); (c.code == nil) != (got > 0) {
				t.Errorf("kafka_connections_total is %v", got)
			}
			if c.code != nil && value(t, reg, "kafka_connection_errors_total", c.kind) == 0 {
				t.Errorf("kafka_connection_errors_total{type=%q} is 0", c.kind)
			}
		})
	}
}

func TestOptionsRefuse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  kafka.Config
		code *fault.Code
	}{
		"no brokers":  {kafka.Config{}, fault.ConfigMissing},
		"bad brokers": {kafka.Config{Brokers: []string{"a"}}, fault.BrokerList},
		"codec":       {kafka.Config{Brokers: []string{"a:1"}, Compression: "lzma"}, fault.ConfigInvalid},
		"mechanism":   {kafka.Config{Brokers: []string{"a:1"}, SASL: kafka.SASL{Mechanism: "gssapi"}}, fault.ConfigInvalid},
	} {
		if _, err := c.cfg.Options("test", zerolog.Nop(), nil); !fault.Has(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOptionsAreWhatTheConfigurationSays(t *testing.T) {
	t.Parallel()
	cfg := kafka.Config{Brokers: []string{" a:1 ", "b:2"}, ClientID: "outbox-relay-orders", RequestTimeout: 7 * time.Second, ConnectionTimeout: 3 * time.Second}
	opts, err := cfg.Options("producer", zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, c := range []struct {
		opt  any
		want any
	}{
		{kgo.ClientID, "outbox-relay-orders-producer"},
		{kgo.RequestTimeoutOverhead, 7 * time.Second},
		{kgo.ProduceRequestTimeout, 7 * time.Second},
		{kgo.SeedBrokers, []string{"a:1", "b:2"}},
	} {
		if got := cl.OptValue(c.opt); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%T: %v, want %v", c.opt, got, c.want)
		}
	}
}

// Sessions come and go, two of a role may overlap for a moment, and a scrape
// may come at any time.
func TestMetricsOutliveClients(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	m := kafka.NewMetrics(reg)
	cfg := kafka.Config{Brokers: cluster(t)}
	open := func() *kgo.Client {
		opts, err := cfg.Options("producer", zerolog.Nop(), m)
		if err != nil {
			t.Fatal(err)
		}
		cl, err := kgo.NewClient(append(opts, kgo.DefaultProduceTopic("events"))...)
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(context.Background(), kgo.StringRecord("x")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		return cl
	}
	first, second := open(), open()
	lint(t, reg)
	first.Close()
	if got := value(t, reg, "outbox_kafka_client_connects_total", ""); got == 0 {
		t.Error("the figures of the living client went with the closed one")
	}
	before := value(t, reg, "kafka_connections_total", "")
	second.Close()
	lint(t, reg)
	if after := value(t, reg, "kafka_connections_total", ""); before == 0 || after != before {
		t.Errorf("kafka_connections_total went from %v to %v", before, after)
	}
	m.Denied(errors.New("no"))
	m.Denied(nil)
	m.Denied(fault.New(fault.KafkaDenied, "x"))
	if got := value(t, reg, "kafka_connection_errors_total", "authz"); got != 1 {
		t.Errorf("authz is %v", got)
	}
	var none *kafka.Metrics
	none.Denied(fault.New(fault.KafkaDenied, "x"))
	if kafka.NewMetrics(nil) != nil {
		t.Error("metrics without a registry")
	}
}

func lint(t *testing.T, reg prometheus.Gatherer) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// value sums a counter, over the series with the type if one is given.
func value(t *testing.T, reg prometheus.Gatherer, name, kind string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			match := kind == ""
			for _, l := range m.GetLabel() {
				match = match || l.GetName() == "type" && l.GetValue() == kind
			}
			if match {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// deaf accepts connections and says nothing.
func deaf(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var held []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			held = append(held, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, c := range held {
			c.Close()
		}
	})
	return l.Addr().String()
}

// answering is a server that reads something, says its sentence and hangs up.
func answering(t *testing.T, sentence string) string {
	t.Helper()
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
			// All of it, or the close would be a reset.
			_, _ = c.Read(make([]byte, 64<<10))
			_, _ = io.WriteString(c, sentence)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// refused is an address where nobody listens.
func refused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

// pki is one authority with one server and one client certificate.
type pki struct {
	caFile, certFile, keyFile string
	pool                      *x509.CertPool
	pair, expired             tls.Certificate
}

func newPKI(t *testing.T) pki {
	t.Helper()
	dir := t.TempDir()
	caKey, ca := certificate(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	key, leaf := certificate(t, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := pki{
		caFile: filepath.Join(dir, "ca.pem"), certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem"),
		pool: x509.NewCertPool(), pair: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key},
	}
	p.pool.AddCert(ca)
	oldKey, oldLeaf := certificate(t, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
	}, ca, caKey)
	p.expired = tls.Certificate{Certificate: [][]byte{oldLeaf.Raw}, PrivateKey: oldKey}
	for file, block := range map[string]*pem.Block{
		p.caFile: {Type: "CERTIFICATE", Bytes: ca.Raw}, p.certFile: {Type: "CERTIFICATE", Bytes: leaf.Raw}, p.keyFile: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p pki) server(askClient bool) *tls.Config {
	cfg := &tls.Config{Certificates: []tls.Certificate{p.pair}, MinVersion: tls.VersionTLS12}
	if askClient {
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, p.pool
	}
	return cfg
}

func certificate(t *testing.T, tmpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber, tmpl.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	if tmpl.NotAfter.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}
