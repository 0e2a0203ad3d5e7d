package kafka_test

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/holdwall/outbox-relay/internal/kafka"
)

// expiries reads when certificates end, by name.
func expiries(t *testing.T, reg prometheus.Gatherer) map[string]time.Time {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]time.Time{}
	for _, f := range families {
		if f.GetName() == "outbox_tls_certificate_expiry_timestamp_seconds" {
			for _, m := range f.GetMetric() {
				out[m.GetLabel()[0].GetValue()] = time.Unix(int64(m.GetGauge().GetValue()), 0)
			}
		}
	}
	return out
}

// Every certificate of a connection is watched, and the one of a broker that
// was refused for its age most of all.
func TestCertificatesAreWatched(t *testing.T) {
	t.Parallel()
	pki := newPKI(t)
	asking := pki.server(true)
	mutual := cluster(t, kfake.TLS(asking))
	old := cluster(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pki.expired}, MinVersion: tls.VersionTLS12}))
	reg := prometheus.NewPedanticRegistry()
	m := kafka.NewMetrics(reg)
	cfg := kafka.TLS{Mode: kafka.On, CAFile: pki.caFile, CertFile: pki.certFile, KeyFile: pki.keyFile}
	if err := ping(t, kafka.Config{Brokers: mutual, TLS: cfg}, m, new(output)); err != nil {
		t.Fatal(err)
	}
	if err := ping(t, kafka.Config{Brokers: old, TLS: cfg}, m, new(output)); err == nil {
		t.Fatal("an expired certificate was accepted")
	}
	lint(t, reg)
	got := expiries(t, reg)
	for name, left := range map[string]time.Duration{
		"kafka client certificate": time.Hour, "kafka authorities": time.Hour, mutual[0]: time.Hour, old[0]: -time.Hour,
	} {
		if at := got[name]; time.Until(at).Round(time.Hour) != left {
			t.Errorf("%s ends %s, want in %s; there are %v", name, at, left, got)
		}
	}
}

func TestWithoutTLSNothingIsWatched(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	if err := ping(t, kafka.Config{Brokers: cluster(t)}, kafka.NewMetrics(reg), new(output)); err != nil {
		t.Fatal(err)
	}
	if got := expiries(t, reg); len(got) > 0 {
		t.Error(got)
	}
}
