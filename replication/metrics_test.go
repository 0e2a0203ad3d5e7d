package replication

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestMetricsAreClean(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	NewMetrics(reg)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// The stream counts by part and by read of the socket, and allocates nothing
// for it.
func TestCountingDoesNotAllocate(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry())
	if n := testing.AllocsPerRun(100, func() {
		m.events(256)
		m.received(128 << 10)
		m.transaction()
		m.waited(time.Millisecond)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkCounting is what counting costs a part of 256 rows.
func BenchmarkCounting(b *testing.B) {
	m := NewMetrics(prometheus.NewRegistry())
	b.ReportAllocs()
	for b.Loop() {
		m.events(256)
		m.transaction()
	}
}

// Whose certificate has ended is locked out of the database as well as of Kafka.
func TestCertificatesAreWatched(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ends := time.Now().Add(time.Hour).Truncate(time.Second)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{pair}}).Handshake() }()
	own := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}
	conn := tls.Client(ours, own)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	m.certificates("db:5432", conn, own)
	m.certificates("plain:5432", ours, nil)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "outbox_tls_certificate_expiry_timestamp_seconds" {
			for _, m := range f.GetMetric() {
				got[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
	}
	if at := float64(ends.Unix()); len(got) != 2 || got["postgres db:5432"] != at || got["postgres client certificate"] != at {
		t.Errorf("%v, want %v twice", got, at)
	}
}
