package relay

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// Metrics of the pump. Made once per process; nil works and counts nothing.
type Metrics struct {
	states       *prometheus.GaugeVec
	leader       prometheus.Gauge
	changes      prometheus.Counter
	reconnects   *prometheus.CounterVec
	latency      prometheus.Histogram
	decoding     prometheus.Histogram
	decodeErrors *prometheus.CounterVec
	letters      *prometheus.CounterVec
	degraded     prometheus.Gauge
	limit        prometheus.Gauge
	parkedKeys   prometheus.Gauge
	onward       prometheus.Counter
	takeover     prometheus.Histogram

	late    lateness
	kafka   stopwatch
	breaker stopwatch
	ckTime  atomic.Int64 // of the newest checkpoint, in Unix milliseconds; 0: not ours to write
}

// Why a row or the stream could not be read.
const (
	decodeRow    = "row"    // one row, which became a letter
	decodeColumn = "column" // the table lacks a column
	decodeStream = "stream" // a message of the protocol
)

// endings are the failures that a session usually ends with; the others appear
// when they happen.
var endings = []*fault.Code{
	fault.PostgresUnreachable, fault.PostgresStopping, fault.PostgresLost, fault.PostgresStandby, fault.SlotHeld,
	fault.Fenced, fault.TransactionFailed, fault.OutcomeUnknown, fault.ReadBackTimeout, fault.BarrierTimeout,
	fault.KafkaUnavailable, fault.KafkaUnreachable, fault.KafkaRefused, fault.KafkaTimeout, fault.BreakerOpen,
}

// NewMetrics registers the metrics of the pump of the relay of that name. The
// name is a label of what alerts add up over replicas: several relays may be
// scraped under one job.
func NewMetrics(reg prometheus.Registerer, name string) *Metrics {
	f := promauto.With(reg)
	relay := prometheus.Labels{"relay": name}
	m := &Metrics{
		states: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "outbox_relay_state", Help: "1 for the state that the relay is in.",
		}, []string{"state"}),
		leader: f.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_leader", ConstLabels: relay, Help: "1 while this replica holds the slot and streams, or is paused.",
		}),
		changes: f.NewCounter(prometheus.CounterOpts{
			Name: "outbox_leader_changes_total", ConstLabels: relay,
			Help: "Times that this replica began to stream where another process had written the newest checkpoint.",
		}),
		reconnects: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_source_reconnects_total", Help: "Sessions that ended and were tried again, by the name of the failure.",
		}, []string{"reason"}),
		latency: f.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_end_to_end_latency_seconds", Help: "Time from the commit in Postgres to the acknowledged commit in Kafka, of the oldest transaction of each Kafka transaction.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 17), NativeHistogramBucketFactor: 1.1,
		}),
		decoding: f.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_decode_duration_seconds", Help: "Time in which the rows of a part of a transaction, 256 at most, became records. One part in sixteen is measured.",
			Buckets: prometheus.ExponentialBuckets(0.000001, 4, 12), NativeHistogramBucketFactor: 1.1,
		}),
		decodeErrors: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_decode_errors_total", Help: "What could not be read: a row, which becomes a dead letter; a column that the table lacks, or a message of the stream, which halt.",
		}, []string{"reason"}),
		letters: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_dlq_records_total", Help: "Dead letters of rows in committed Kafka transactions.",
		}, []string{"reason", "stage"}),
		degraded: f.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_guarantee_degraded", Help: "1 while the brokers lack transaction.version 2, without which a delayed EndTxn can end another transaction.",
		}),
		limit: f.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_buffer_limit_bytes", Help: "What outbox_buffered_bytes may grow to, but for one part of a transaction: a Kafka transaction under way and the next.",
		}),
		parkedKeys: f.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_dlq_parked_keys", Help: "Keys whose events are held back behind a dead letter.",
		}),
		onward: f.NewCounter(prometheus.CounterOpts{
			Name: "outbox_dlq_released_total", Help: "Parked letters that the relay has sent on.",
		}),
		takeover: f.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_takeover_seconds", Help: "Time from a standby seeing the slot free to its streaming.",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60}, NativeHistogramBucketFactor: 1.1,
		}),
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "outbox_lag_seconds", ConstLabels: relay,
		Help: "Age of the oldest commit in Postgres that was read and is not in Kafka; 0 when caught up. Without a session, the time since all was delivered. 0 where another replica holds the slot.",
	}, func() float64 { return m.late.seconds(time.Now()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "outbox_checkpoint_age_seconds",
		Help: "Age of the newest checkpoint in Kafka. An idle relay writes one when the WAL has moved, at least once an hour. 0 where another replica holds the slot.",
	}, m.checkpointAge)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "outbox_buffered_records", Help: "Records that were read and are not in Kafka, those of the Kafka transaction under way included.",
	}, func() float64 { return float64(m.late.stock().records) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "outbox_buffered_bytes", Help: "About the memory that they take.",
	}, func() float64 { return float64(m.late.stock().bytes) })
	for cause, w := range map[string]*stopwatch{"kafka": &m.kafka, "breaker": &m.breaker} {
		// The source counts the cause "memory" under the same name.
		f.NewCounterFunc(prometheus.CounterOpts{
			Name: "outbox_backpressure_seconds_total", ConstLabels: prometheus.Labels{"cause": cause},
			Help: "Time in which nothing more was read: kafka while it has to take what was read before, breaker while that is open, memory while the queue of the source is full.",
		}, func() float64 { return w.seconds(time.Now()) })
	}
	for _, s := range states {
		m.states.WithLabelValues(string(s))
	}
	for _, c := range endings {
		m.reconnects.WithLabelValues(c.Name)
	}
	for _, r := range []string{decodeRow, decodeColumn, decodeStream} {
		m.decodeErrors.WithLabelValues(r)
	}
	for _, r := range dlq.Reasons() {
		if r != dlq.Handler { // a consumer's
			m.letters.WithLabelValues(string(r), string(dlq.StageOf(r)))
		}
	}
	return m
}

var states = []State{Starting, Standby, Streaming, Paused, Backoff, Failed, Stopped}

// Lag is outbox_lag_seconds, for those who show it elsewhere.
func (m *Metrics) Lag() float64 { return m.late.seconds(time.Now()) }

func (m *Metrics) state(now State) {
	if m == nil {
		return
	}
	for _, s := range states {
		m.states.WithLabelValues(string(s)).Set(one(s == now))
	}
	m.leader.Set(one(now == Streaming || now == Paused))
	switch now {
	case Standby, Stopped:
		m.late.rest()
		m.ckTime.Store(0)
	case Starting, Backoff, Failed:
		m.late.interrupt(time.Now())
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// holds notes that the slot was taken: from here on it is this replica that
// keeps people waiting.
func (m *Metrics) holds() {
	if m != nil {
		m.late.hold(time.Now())
	}
}

// streams notes that rows are read into b, behind the checkpoint ck.
func (m *Metrics) streams(b *gathering, ck checkpoint.Checkpoint, changed bool) {
	if m == nil {
		return
	}
	m.late.stream(b)
	m.ckTime.Store(ck.Time.UnixMilli())
	if changed {
		m.changes.Inc()
	}
}

func (m *Metrics) landed() {
	if m != nil {
		m.late.landed()
	}
}

func (m *Metrics) checkpointAge() float64 {
	at := m.ckTime.Load()
	if at == 0 {
		return 0
	}
	return max(0, time.Since(time.UnixMilli(at)).Seconds())
}

func (m *Metrics) limits(l Limits) {
	if m != nil {
		m.limit.Set(2 * float64(l.MaxBytes))
	}
}

func (m *Metrics) guarantee(degraded bool) {
	if m != nil {
		m.degraded.Set(one(degraded))
	}
}

// session counts the failure that ended one.
func (m *Metrics) session(reason string) {
	if m != nil {
		m.reconnects.WithLabelValues(reason).Inc()
	}
}

func (m *Metrics) tookOver(d time.Duration) {
	if m != nil {
		m.takeover.Observe(d.Seconds())
	}
}

// unread counts what could not be read.
func (m *Metrics) unread(reason string) {
	if m != nil {
		m.decodeErrors.WithLabelValues(reason).Inc()
	}
}

func (m *Metrics) decoded(d time.Duration) {
	if m != nil {
		m.decoding.Observe(d.Seconds())
	}
}

func (m *Metrics) parked(keys int) {
	if m != nil {
		m.parkedKeys.Set(float64(keys))
	}
}

func (m *Metrics) released(n int) {
	if m != nil {
		m.onward.Add(float64(n))
	}
}

// waitsForKafka and waitsForBreaker measure until the function that they return
// is called.
func (m *Metrics) waitsForKafka() (done func()) {
	if m == nil {
		return func() {}
	}
	return m.kafka.start()
}

func (m *Metrics) waitsForBreaker() (done func()) {
	if m == nil {
		return func() {}
	}
	return m.breaker.start()
}

// delivered counts a group whose checkpoint was read back.
func (s *session) delivered(g *group, ck checkpoint.Checkpoint) {
	m := s.Metrics
	if m == nil {
		return
	}
	now := time.Now()
	m.ckTime.Store(ck.Time.UnixMilli())
	if !g.empty() {
		m.latency.Observe(max(0, now.Sub(g.oldest).Seconds()))
	}
	if s.Letters == nil || g.letters == 0 && len(g.released) == 0 {
		return
	}
	for _, records := range [][]*kgo.Record{g.records, g.released} {
		for _, r := range records {
			if r.Topic == s.Letters.Topic {
				reason := dlq.ReasonOf(r)
				m.letters.WithLabelValues(string(reason), string(dlq.StageOf(reason))).Inc()
			}
		}
	}
}
