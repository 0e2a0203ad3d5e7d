package sink

import (
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/twmb/franz-go/pkg/kerr"
)

const (
	resultCommitted = "committed"
	resultAborted   = "aborted"
	resultFenced    = "fenced"
	resultUnknown   = "unknown"

	phaseProduce = "produce"
	phaseEnd     = "end"
	phaseRead    = "read_back"
)

// Topics can come from rows, so their number is anybody's choice: those behind
// the first maxTopics share a label.
const (
	maxTopics  = 200
	topicOther = "other"
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
	produced     *prometheus.CounterVec
	producedSize *prometheus.CounterVec
	errors       *prometheus.CounterVec

	mu     sync.Mutex
	topics map[string]traffic
}

// traffic is what is counted of one topic.
type traffic struct{ records, bytes prometheus.Counter }

// produceErrors are the answers that brokers are known to give to a produce
// request; others appear when they happen.
var produceErrors = []*kerr.Error{
	kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.CorruptMessage,
	kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed, kerr.PolicyViolation,
	kerr.UnknownTopicOrPartition, kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut,
	kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidTxnState, kerr.UnknownProducerID,
}

// codeClient is the code of what no broker has said: a time-out, or a
// connection that ended.
const codeClient = "client"

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
			Name: "outbox_transaction_duration_seconds", Help: "Time of a Kafka transaction: produce is from begin to all acknowledged, end from there to committed, read_back from there to readable.",
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
		produced: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_produced_records_total", Help: "Records in committed Kafka transactions; from the 201st topic on under other.",
		}, []string{"topic"}),
		producedSize: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_produced_bytes_total", Help: "Keys and values of these records, before compression.",
		}, []string{"topic"}),
		errors: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_produce_errors_total", Help: "Records that were not acknowledged, by what the broker said first; client is what no broker said. All of a transaction is tried again.",
		}, []string{"code", "retriable"}),
		topics: map[string]traffic{},
	}
	for _, r := range []string{resultCommitted, resultAborted, resultFenced, resultUnknown} {
		m.transactions.WithLabelValues(r)
	}
	for _, p := range []string{phaseProduce, phaseEnd, phaseRead} {
		m.duration.WithLabelValues(p)
	}
	m.topic(topicOther)
	for _, e := range produceErrors {
		m.errors.WithLabelValues(e.Message, strconv.FormatBool(e.Retriable))
	}
	m.errors.WithLabelValues(codeClient, "true")
	return m
}

func (m *Metrics) committed(rows uint64, load *cargo, end time.Duration) {
	if m == nil {
		return
	}
	records, bytes := 0, 0
	for _, c := range load.topics {
		t := m.topic(c.topic)
		t.records.Add(float64(c.records))
		t.bytes.Add(float64(c.bytes))
		records += c.records
		bytes += c.bytes
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

// rejected counts a transaction in which n records were not acknowledged.
func (m *Metrics) rejected(n int, first error) {
	if m == nil {
		return
	}
	m.publishError.Inc()
	code, retriable := codeClient, true
	if e := (*kerr.Error)(nil); errors.As(first, &e) {
		code, retriable = e.Message, e.Retriable
	}
	m.errors.WithLabelValues(code, strconv.FormatBool(retriable)).Add(float64(n))
}

// topic returns the counters of a topic.
func (m *Metrics) topic(name string) traffic {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, known := m.topics[name]
	switch {
	case known:
		return t
	case len(m.topics) > maxTopics:
		return m.topics[topicOther]
	}
	t = traffic{m.produced.WithLabelValues(name), m.producedSize.WithLabelValues(name)}
	m.topics[name] = t
	return t
}

// Announce lets the series of topics begin before the first record.
func (m *Metrics) Announce(topics ...string) {
	if m != nil {
		for _, t := range topics {
			m.topic(t)
		}
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

// cargo counts by topic what a transaction holds. Records of one topic mostly
// follow each other, and the counters of the process are touched once for all.
type cargo struct {
	topics []topicCargo
	at     int // of the topic that came last
}

type topicCargo struct {
	topic          string
	records, bytes int
}

func (c *cargo) reset() { c.topics, c.at = c.topics[:0], 0 }

func (c *cargo) add(topic string, bytes int) {
	if c.at >= len(c.topics) || c.topics[c.at].topic != topic {
		c.at = slices.IndexFunc(c.topics, func(t topicCargo) bool { return t.topic == topic })
		if c.at < 0 {
			c.at = len(c.topics)
			c.topics = append(c.topics, topicCargo{topic: topic})
		}
	}
	c.topics[c.at].records++
	c.topics[c.at].bytes += bytes
}
