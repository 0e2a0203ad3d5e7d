package relay

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/holdwall/outbox-relay/checkpoint"
)

// Metrics of the pump. Made once per process; nil works and counts nothing.
type Metrics struct {
	states     *prometheus.GaugeVec
	leader     prometheus.Gauge
	reconnects *prometheus.CounterVec
	latency    prometheus.Histogram
	letters    *prometheus.CounterVec
	position   prometheus.Gauge // when the newest checkpoint was read back
	degraded   prometheus.Gauge
	parkedKeys prometheus.Gauge
	onward     prometheus.Counter
	takeover   prometheus.Histogram
}

// NewMetrics registers the metrics of the pump.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		states: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "outbox_relay_state", Help: "1 for the state that the relay is in.",
		}, []string{"state"}),
		leader: f.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_leader", Help: "1 while this replica holds the slot and streams.",
		}),
		reconnects: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_source_reconnects_total", Help: "Sessions that ended and were tried again, by the name of the failure.",
		}, []string{"reason"}),
		latency: f.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_end_to_end_latency_seconds", Help: "Time from the commit in Postgres to the acknowledged commit in Kafka, of the oldest transaction of each Kafka transaction.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 17), NativeHistogramBucketFactor: 1.1,
		}),
		letters: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_dlq_records_total", Help: "Rows that became dead letters.",
		}, []string{"reason", "stage"}),
		degraded: f.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_guarantee_degraded", Help: "1 while the brokers lack transaction.version 2, without which a delayed EndTxn can end another transaction.",
		}),
		position: f.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_checkpoint_timestamp_seconds", Help: "When the newest checkpoint was read back from Kafka.",
		}),
	}
	m.parkedKeys = f.NewGauge(prometheus.GaugeOpts{
		Name: "outbox_dlq_parked_keys", Help: "Keys whose events are held back behind a dead letter.",
	})
	m.onward = f.NewCounter(prometheus.CounterOpts{
		Name: "outbox_dlq_released_total", Help: "Parked letters that the relay has sent on.",
	})
	m.takeover = f.NewHistogram(prometheus.HistogramOpts{
		Name: "outbox_takeover_seconds", Help: "Time from a standby seeing the slot free to its streaming.",
		Buckets: []float64{0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60}, NativeHistogramBucketFactor: 1.1,
	})
	for _, s := range states {
		m.states.WithLabelValues(string(s))
	}
	return m
}

var states = []State{Starting, Standby, Streaming, Backoff, Failed, Stopped}

func (m *Metrics) state(now State) {
	if m == nil {
		return
	}
	for _, s := range states {
		v := 0.0
		if s == now {
			v = 1
		}
		m.states.WithLabelValues(string(s)).Set(v)
	}
	if now == Streaming {
		m.leader.Set(1)
	} else {
		m.leader.Set(0)
	}
}

func (m *Metrics) guarantee(degraded bool) {
	if m == nil {
		return
	}
	if degraded {
		m.degraded.Set(1)
	} else {
		m.degraded.Set(0)
	}
}

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

func (m *Metrics) letter(reason, stage string) {
	if m != nil {
		m.letters.WithLabelValues(reason, stage).Inc()
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

// delivered counts a group whose checkpoint was read back.
func (r *Relay) delivered(g *group, ck checkpoint.Checkpoint) {
	m := r.Metrics
	if m == nil {
		return
	}
	now := time.Now()
	m.position.Set(float64(now.UnixMilli()) / 1000)
	if !g.empty() {
		m.latency.Observe(max(0, now.Sub(g.oldest).Seconds()))
	}
}
