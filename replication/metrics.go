package replication

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	rowEvent    = "event"
	rowFiltered = "filtered"
)

// Metrics of the source. Made once per process; nil works and counts nothing.
type Metrics struct {
	rows         *prometheus.CounterVec
	event        prometheus.Counter // child of rows, resolved once: this is the hot path
	transactions prometheus.Counter
	walBytes     prometheus.Counter
	full         prometheus.Counter
	resumed      prometheus.Counter
	connected    prometheus.Gauge
	expiry       *prometheus.GaugeVec
}

// NewMetrics registers the metrics of the source.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		rows: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_source_rows_total",
			Help: "Change messages received from the slot, by what became of them.",
		}, []string{"result"}),
		transactions: f.NewCounter(prometheus.CounterOpts{
			Name: "outbox_source_transactions_total", Help: "Transactions received from the slot.",
		}),
		walBytes: f.NewCounter(prometheus.CounterOpts{
			Name: "outbox_source_wal_bytes_total", Help: "Bytes of replication messages received.",
		}),
		resumed: f.NewCounter(prometheus.CounterOpts{
			Name: "outbox_resume_skipped_rows_total", Help: "Rows sent again after a restart and dropped because the checkpoint covers them.",
		}),
		full: f.NewCounter(prometheus.CounterOpts{
			// The relay counts other causes under the same name.
			Name: "outbox_backpressure_seconds_total", ConstLabels: prometheus.Labels{"cause": "memory"},
			Help: "Time in which nothing more was read: kafka while it has to take what was read before, breaker while that is open, memory while the queue of the source is full.",
		}),
		connected: f.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_source_connected", Help: "1 while this process streams from the slot.",
		}),
	}
	m.expiry = f.NewGaugeVec(prometheus.GaugeOpts{
		// The clients of Kafka have theirs under the same name.
		Name: "outbox_tls_certificate_expiry_timestamp_seconds",
		Help: "When a certificate ends, or the first of a chain: of the own files as read for the newest connection, and of brokers and of Postgres, by address, as shown at the last handshake.",
	}, []string{"name"})
	for _, r := range []string{rowEvent, rowFiltered, "ignored_update", "ignored_delete", "truncate"} {
		m.rows.WithLabelValues(r)
	}
	m.event = m.rows.WithLabelValues(rowEvent)
	return m
}

func (m *Metrics) row(result string) {
	if m != nil {
		m.rows.WithLabelValues(result).Inc()
	}
}

// events counts the rows of one part.
func (m *Metrics) events(n int) {
	if m != nil {
		m.event.Add(float64(n))
	}
}

// certificates notes when those of a connection end: what the server has shown,
// and our own. One without TLS has none.
func (m *Metrics) certificates(addr string, c net.Conn, own *tls.Config) {
	if m == nil {
		return
	}
	if c, ok := c.(*tls.Conn); ok {
		m.expires("postgres "+addr, c.ConnectionState().PeerCertificates)
	}
	if own != nil && len(own.Certificates) > 0 && own.Certificates[0].Leaf != nil {
		m.expires("postgres client certificate", []*x509.Certificate{own.Certificates[0].Leaf})
	}
}

func (m *Metrics) expires(name string, chain []*x509.Certificate) {
	if len(chain) == 0 {
		return
	}
	first := slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	m.expiry.WithLabelValues(name).Set(float64(first.NotAfter.Unix()))
}

// waited counts time in which the queue had no room.
func (m *Metrics) waited(d time.Duration) {
	if m != nil {
		m.full.Add(d.Seconds())
	}
}

func (m *Metrics) ignored(k Kind) {
	if m == nil {
		return
	}
	switch k {
	case KindUpdate:
		m.row("ignored_update")
	case KindDelete:
		m.row("ignored_delete")
	default:
		m.row("truncate")
	}
}

func (m *Metrics) transaction() {
	if m != nil {
		m.transactions.Inc()
	}
}

func (m *Metrics) skipped() {
	if m != nil {
		m.resumed.Inc()
	}
}

func (m *Metrics) received(bytes int) {
	if m != nil {
		m.walBytes.Add(float64(bytes))
	}
}

func (m *Metrics) streaming(on bool) {
	if m == nil {
		return
	}
	if on {
		m.connected.Set(1)
	} else {
		m.connected.Set(0)
	}
}
