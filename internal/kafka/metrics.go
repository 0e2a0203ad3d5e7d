package kafka

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kprom"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Metrics counts what all clients of the program do. Connections and their
// errors live as long as the process; the library's own figures live as long
// as the client they belong to, and are labelled with its role.
type Metrics struct {
	connections prometheus.Counter
	errors      *prometheus.CounterVec

	certificate *prometheus.Desc

	mu     sync.Mutex
	live   map[string]*kprom.Metrics // by role: the client opened last
	expiry map[string]time.Time      // of certificates, by name
}

// errorTypes is every value of the label "type".
var errorTypes = [...]string{"dial", "tls", "sasl", "timeout", "authz", "protocol", "other"}

// NewMetrics registers the metrics. A nil registerer gives a nil Metrics, which
// counts nothing.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	if reg == nil {
		return nil
	}
	m := &Metrics{
		connections: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kafka_connections_total",
			Help: "Connections to brokers that were opened.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kafka_connection_errors_total",
			Help: "Connections to brokers that failed, by what was wrong.",
		}, []string{"type"}),
		certificate: prometheus.NewDesc("outbox_tls_certificate_expiry_timestamp_seconds",
			"When a certificate ends, or the first of a chain: of the own files as read for the newest connection, and of brokers and of Postgres, by address, as shown at the last handshake.",
			[]string{"name"}, nil),
		live: make(map[string]*kprom.Metrics), expiry: make(map[string]time.Time),
	}
	for _, t := range errorTypes {
		m.errors.WithLabelValues(t)
	}
	reg.MustRegister(m.connections, m.errors, m)
	return m
}

// Denied counts a failure for lack of rights, which a client meets after its
// connection stood; connections that fail are counted by themselves. It does
// nothing for errors of another kind, so a session may hand in whatever ended
// it.
func (m *Metrics) Denied(err error) {
	if m != nil && err != nil && ErrorType(err) == "authz" {
		m.errors.WithLabelValues("authz").Inc()
	}
}

// ErrorType names the kind of a connection error: the label of the metric.
func ErrorType(err error) string {
	// A name that does not resolve and a port where nobody listens are both
	// "dial": the label set is older than the classes.
	switch class := fault.CodeOf(Classify("", err)).Connection(); class {
	case "dns", "network":
		return "dial"
	case "":
		return "other"
	default:
		return class
	}
}

// connected counts an attempt to connect. A nil Metrics counts nothing.
func (m *Metrics) connected(err error) {
	switch {
	case m == nil:
	case err != nil:
		m.errors.WithLabelValues(ErrorType(err)).Inc()
	default:
		m.connections.Inc()
	}
}

// hooks returns the hooks of one client.
func (m *Metrics) hooks(role string) []kgo.Hook {
	// The library registers a new set for each client, and panics when two
	// live at once. It is given no registry: this collector forwards the
	// newest set of each role, so that a session that opens before the last
	// one is closed is no accident.
	k := kprom.NewMetrics("outbox",
		kprom.Subsystem("kafka_client"),
		kprom.Registry(nil),
		kprom.WithStaticLabel(prometheus.Labels{"role": role}),
		kprom.Histograms(kprom.RequestDurationE2E, kprom.RequestThrottled),
		kprom.FetchAndProduceDetail(kprom.ByNode, kprom.Batches, kprom.Records, kprom.CompressedBytes, kprom.UncompressedBytes, kprom.ConsistentNaming),
	)
	// Order matters: the library fills its set when the client is made, and
	// only then may it be seen here.
	return []kgo.Hook{k, &clientHooks{m: m, role: role, k: k}}
}

// Describe sends nothing: what is collected depends on the clients that live.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect tells when certificates end and forwards the figures of the living
// clients.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, at := range m.expiry {
		out <- prometheus.MustNewConstMetric(m.certificate, prometheus.GaugeValue, float64(at.Unix()), name)
	}
	for _, k := range m.live {
		in := make(chan prometheus.Metric)
		go func() { defer close(in); k.Collect(in) }()
		for metric := range in {
			// Two gauges of the library end in _total, which the naming
			// rules keep for counters; our own outbox_buffered_* say the same.
			if !strings.Contains(metric.Desc().String(), "_kafka_client_buffered_") {
				out <- metric
			}
		}
	}
}

// clientHooks ties one client to the metrics.
type clientHooks struct {
	m    *Metrics
	role string
	k    *kprom.Metrics
}

// OnNewClient implements kgo.HookNewClient.
func (h *clientHooks) OnNewClient(*kgo.Client) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	h.m.live[h.role] = h.k
}

// OnClientClosed implements kgo.HookClientClosed.
func (h *clientHooks) OnClientClosed(*kgo.Client) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if h.m.live[h.role] == h.k {
		delete(h.m.live, h.role)
	}
}
