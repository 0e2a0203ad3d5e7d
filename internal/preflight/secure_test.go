package preflight_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/preflight"
	"github.com/holdwall/outbox-relay/internal/secret"
)

const planted = "pl4nted-Passw0rd"

func (w *world) login(mechanism, user, password string) {
	w.cfg.Kafka.SASL = kafka.SASL{Mechanism: mechanism, Username: user, Password: secret.New(password)}
}

func TestSASL(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mechanism, password string
		want                preflight.Status
	}{
		"right":              {"scram-sha-256", planted, preflight.Pass},
		"right, upper case":  {"SCRAM_SHA_256", planted, preflight.Pass},
		"wrong password":     {"scram-sha-256", planted + "!", preflight.Fail},
		"another mechanism":  {"scram-sha-512", planted, preflight.Fail},
		"no mechanism":       {"", "", preflight.Skipped},
		"plain not for user": {"plain", planted, preflight.Fail},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sound(), nil, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "app", planted))
			w.cfg.Kafka.RequestTimeout = 2 * time.Second
			if c.mechanism != "" {
				w.login(c.mechanism, "app", c.password)
			}
			r := w.run(t)
			for _, s := range r.Results {
				switch {
				case s.Step == preflight.StepAPI && s.Status != preflight.Pass:
					t.Errorf("API versions are told to anybody: %+v", s)
				case s.Step == preflight.StepSASL && s.Status != c.want:
					t.Errorf("%+v", s)
				}
			}
			if strings.Contains(text(r), planted) {
				t.Errorf("the report holds the password:\n%s", text(r))
			}
			if want := c.want != preflight.Fail; r.Reached != want {
				t.Errorf("reached: %t", r.Reached)
			}
			if c.want == preflight.Pass && len(troubles(r)) > 0 || c.want != preflight.Pass && !r.Failed() {
				t.Errorf("\n%s", text(r))
			}
		})
	}
}

// A relay that parks keys or retries letters cannot do without what else only
// its tools need.
func TestRightsForLetters(t *testing.T) {
	t.Parallel()
	const read, write = kmsg.ACLOperationRead, kmsg.ACLOperationWrite
	for name, c := range map[string]struct {
		park, retry bool
		without     func(kfake.ACL) bool
		want        []string
	}{
		"neither, letters": {false, false, is("dlq", read), []string{"warn rights OBX-5004"}},
		"neither, state":   {false, false, is("dlq.state", read), []string{"warn rights OBX-5004"}},
		"park, letters":    {true, false, is("dlq", read), []string{"fail rights OBX-5004"}},
		"park, state":      {true, false, is("dlq.state", write), []string{"fail rights OBX-5004"}},
		"retry, letters":   {false, true, is("dlq", read), []string{"fail rights OBX-5004"}},
		"retry, state":     {false, true, is("dlq.state", write), []string{"fail rights OBX-5004"}},
		"park, events":     {true, false, is("events", read), []string{"warn rights OBX-5004"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var acls []kfake.ACL
			for _, a := range everyRight() {
				if !c.without(a) {
					acls = append(acls, a)
				}
			}
			w := newWorld(t, sound(), nil, kfake.EnableSASL(), kfake.EnableACLs(),
				kfake.Superuser("PLAIN", "admin", "admin"), kfake.User("PLAIN", "app", planted, acls...))
			w.login("plain", "app", planted)
			w.cfg.ParkKeys, w.cfg.RetryLetters = c.park, c.retry
			if r := w.run(t); !cmp.Equal(c.want, troubles(r)) {
				t.Errorf("want %q:\n%s", c.want, text(r))
			}
		})
	}
}

// everyRight is what a relay and its tools need on the topics of sound.
func everyRight() []kfake.ACL {
	const topic, txn, cluster = kmsg.ACLResourceTypeTopic, kmsg.ACLResourceTypeTransactionalId, kmsg.ACLResourceTypeCluster
	const read, write, configs = kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationDescribeConfigs
	return []kfake.ACL{
		allow(topic, "events", write), allow(topic, "events", read), allow(topic, "dlq", write), allow(topic, "dlq", read),
		allow(topic, "dlq.state", write), allow(topic, "dlq.state", read), allow(topic, "ckpt", write), allow(topic, "ckpt", read),
		allow(topic, "events", configs), allow(topic, "dlq", configs), allow(topic, "dlq.state", configs), allow(topic, "ckpt", configs),
		allow(txn, "outbox-orders-verify", write), allow(cluster, "kafka-cluster", configs),
	}
}

// What the user may not do is named, with the topic and the operation.
func TestRights(t *testing.T) {
	t.Parallel()
	const read, write, describe, configs = kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs
	for name, c := range map[string]struct {
		without func(kfake.ACL) bool
		want    []string
		says    string
	}{
		"all are there":              {func(kfake.ACL) bool { return false }, nil, ""},
		"events may not be written":  {is("events", write), []string{"fail rights OBX-5004"}, "--operation WRITE --topic events"},
		"events may not be read":     {is("events", read), []string{"warn rights OBX-5004"}, "--operation READ --topic events"},
		"checkpoint may not be read": {is("ckpt", read), []string{"fail rights OBX-5004"}, "--operation READ --topic ckpt"},
		"state may not be written":   {is("dlq.state", write), []string{"warn rights OBX-5004"}, "--operation WRITE --topic dlq.state"},
		"no transactional id":        {is("outbox-orders-verify", write), []string{"fail rights OBX-5004"}, "outbox-orders-verify"},
		"settings are not readable":  {is("events", configs), []string{"warn topic OBX-5004"}, "DescribeConfigs on topic events"},
		"nothing about events": {
			func(a kfake.ACL) bool { return a.Name == "events" },
			[]string{"fail topic OBX-5004"},
			"topic events",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var acls []kfake.ACL
			for _, a := range everyRight() {
				if !c.without(a) {
					acls = append(acls, a)
				}
			}
			w := newWorld(t, sound(), nil, kfake.EnableSASL(), kfake.EnableACLs(),
				kfake.Superuser("PLAIN", "admin", "admin"), kfake.User("PLAIN", "app", planted, acls...))
			w.login("plain", "app", planted)
			r := w.run(t)
			if diff := cmp.Diff(c.want, troubles(r)); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, text(r))
			}
			if !strings.Contains(text(r), c.says) {
				t.Errorf("%q is not said:\n%s", c.says, text(r))
			}
		})
	}
}

func allow(resource kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
	return kfake.ACL{Resource: resource, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
}

func is(name string, op kmsg.ACLOperation) func(kfake.ACL) bool {
	return func(a kfake.ACL) bool { return a.Name == name && a.Operation == op }
}

func TestTLS(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ends       time.Duration
		other      bool // trust another authority
		name       string
		skipVerify bool
		want       []string // of one broker
		says       string
	}{
		"sound":             {ends: 90 * 24 * time.Hour, says: "certificate of CN=broker for localhost, 127.0.0.1, issued by CN=broker, ends "},
		"ends soon":         {ends: 9 * 24 * time.Hour, want: []string{"warn tls OBX-5105"}, says: "ends in 8 days"},
		"has ended":         {ends: -time.Hour, want: []string{"fail tls "}, says: "issued by CN=broker, ended "},
		"unknown authority": {ends: 90 * 24 * time.Hour, other: true, want: []string{"fail tls "}, says: "certificate of CN=broker"},
		"another name":      {ends: 90 * 24 * time.Hour, name: "kafka.example", want: []string{"fail tls "}, says: "certificate of CN=broker"},
		"not verified":      {ends: 90 * 24 * time.Hour, other: true, skipVerify: true, want: []string{"warn tls OBX-5106"}, says: "TLS 1.3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pair, ca := certificate(t, c.ends)
			if c.other {
				_, ca = certificate(t, c.ends)
			}
			w := newWorld(t, sound(), nil, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}))
			w.cfg.Kafka.TLS = kafka.TLS{Mode: kafka.On, CAFile: ca, ServerName: c.name, InsecureSkipVerify: c.skipVerify}
			w.cfg.Kafka.Brokers = w.cfg.Kafka.Brokers[:1]
			r := w.run(t)
			got := troubles(r)
			if len(c.want) == 0 && len(got) > 0 || len(c.want) > 0 && (len(got) != 1 || !strings.HasPrefix(got[0], c.want[0])) {
				t.Errorf("%v, want %v\n%s", got, c.want, text(r))
			}
			if !strings.Contains(text(r), c.says) {
				t.Errorf("%q is not said:\n%s", c.says, text(r))
			}
		})
	}
}

// A client that speaks the wrong of TLS and plaintext gets no further than the
// first word, and is told.
func TestTLSAgainstPlaintext(t *testing.T) {
	t.Parallel()
	pair, ca := certificate(t, 90*24*time.Hour)
	for name, c := range map[string]struct {
		server []kfake.Opt
		mode   kafka.Switch
		step   string
	}{
		"plaintext to a TLS port": {[]kfake.Opt{kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}})}, kafka.Off, preflight.StepAPI},
		"TLS to a plaintext port": {nil, kafka.On, preflight.StepTLS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sound(), nil, c.server...)
			w.cfg.Kafka.TLS = kafka.TLS{Mode: c.mode, CAFile: ca}
			w.cfg.Kafka.Brokers = w.cfg.Kafka.Brokers[:1]
			since := time.Now()
			r := w.run(t)
			if took := time.Since(since); took > w.cfg.Kafka.ConnectionTimeout+2*time.Second {
				t.Errorf("took %s", took)
			}
			if got := troubles(r); len(got) != 1 || !strings.HasPrefix(got[0], "fail "+c.step) || r.Reached {
				t.Errorf("%v\n%s", got, text(r))
			}
		})
	}
}

// certificate makes a certificate for this host, signed by itself, and the file
// of its authority.
func certificate(t *testing.T, ends time.Duration) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-100 * 24 * time.Hour), NotAfter: time.Now().Add(ends),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}
