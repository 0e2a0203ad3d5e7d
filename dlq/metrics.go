package dlq

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what became of letters. A nil one counts nothing.
type Metrics struct{ replayed *prometheus.CounterVec }

// Results of a replay, as the metric has them.
const (
	resultReplayed = "replayed"
	resultRefused  = "refused"
	resultDeferred = "deferred"
	resultGivenUp  = "given_up"
)

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{replayed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "outbox_dlq_replayed_total",
		Help: "Dead letters that were replayed, or refused: by a person's replay, or by the scheduler, which tries again later or gives up.",
	}, []string{"result"})}
	for _, r := range []string{resultReplayed, resultRefused, resultDeferred, resultGivenUp} {
		m.replayed.WithLabelValues(r)
	}
	reg.MustRegister(m.replayed)
	return m
}

func (m *Metrics) count(job Job, res *Result) {
	if m == nil || job.Action != Replayed {
		return
	}
	result := ""
	switch {
	case res.Outcome == OutcomeDone:
		result = resultReplayed
	case res.Outcome == OutcomeRefused:
		result = resultRefused
	case res.Outcome == OutcomeDeferred && res.NextAt.IsZero():
		result = resultGivenUp
	case res.Outcome == OutcomeDeferred:
		result = resultDeferred
	default:
		return
	}
	m.replayed.WithLabelValues(result).Inc()
}
