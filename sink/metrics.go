package sink

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	resultCommitted = "committed"
	resultAborted   = "aborted"
	resultFenced    = "fenced"
	resultUnknown   = "unknown"

	phaseProduce = "produce"
	phaseEnd     = "end"
)

// Metrics of the sink. Made once per process; nil works and counts nothing.
type Metrics struct {
	published    prometheus.Counter
	publishError prometheus.Counter
	failures     prometheus.Counter
	initFailures prometheus.Counter
	transactions *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	records      prometheus.Histogram
	bytes        prometheus.Histogram
	checkpoints  prometheus.Counter
}

// NewMetrics registers the metrics of the sink.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		published: f.NewCounter(prometheus.CounterOpts{
			Name: "kafka_outbox_published_total", Help: "Outbox rows in committed Kafka transactions, dead letters included.",
		}),
		publishError: f.NewCounter(prometheus.CounterOpts{
			Name: "kafka_outbox_publish_errors_total", Help: "Kafka transactions in which a record was not acknowledged.",
		}),
		failures: f.NewCounter(prometheus.CounterOpts{
			Name: "kafka_outbox_batch_failures_total", Help: "Kafka transactions that were not confirmed as committed.",
		}),
		initFailures: f.NewCounter(prometheus.CounterOpts{
			Name: "kafka_producer_init_failures_total", Help: "Sessions that could not take over the transactional id and read the checkpoint.",
		}),
		transactions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_transactions_total", Help: "Kafka transactions by how they ended.",
		}, []string{"result"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "outbox_transaction_duration_seconds", Help: "Time of a Kafka transaction: produce is from begin to all acknowledged, end from there to committed.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 17), NativeHistogramBucketFactor: 1.1,
		}, []string{"phase"}),
		records: f.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_transaction_records", Help: "Records of a committed Kafka transaction, checkpoint included.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 9), NativeHistogramBucketFactor: 1.1,
		}),
		bytes: f.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_transaction_bytes", Help: "Keys and values of a committed Kafka transaction.",
			Buckets: prometheus.ExponentialBuckets(256, 4, 10), NativeHistogramBucketFactor: 1.1,
		}),
		checkpoints: f.NewCounter(prometheus.CounterOpts{
			Name: "outbox_checkpoint_writes_total", Help: "Committed checkpoints.",
		}),
	}
	for _, r := range []string{resultCommitted, resultAborted, resultFenced, resultUnknown} {
		m.transactions.WithLabelValues(r)
	}
	return m
}

func (m *Metrics) committed(rows uint64, records int64, bytes int, end time.Duration) {
	if m == nil {
		return
	}
	m.published.Add(float64(rows))
	m.transactions.WithLabelValues(resultCommitted).Inc()
	m.checkpoints.Inc()
	m.records.Observe(float64(records))
	m.bytes.Observe(float64(bytes))
	m.phase(phaseEnd, end)
}

func (m *Metrics) ended(result string) {
	if m == nil {
		return
	}
	m.transactions.WithLabelValues(result).Inc()
	m.failures.Inc()
}

func (m *Metrics) rejected() {
	if m != nil {
		m.publishError.Inc()
	}
}

func (m *Metrics) initFailed() {
	if m != nil {
		m.initFailures.Inc()
	}
}

func (m *Metrics) phase(phase string, d time.Duration) {
	if m != nil {
		m.duration.WithLabelValues(phase).Observe(d.Seconds())
	}
}
