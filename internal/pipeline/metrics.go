package pipeline

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Metrics are what this package counts beside the consumer's own. A nil
// Metrics counts nothing.
type Metrics struct {
	responses *prometheus.CounterVec
	starts    prometheus.Counter
	ends      *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_pipeline_webhook_responses_total", Help: "Answers of the webhook by class of their status; none is a request without an answer.",
		}, []string{"status"}),
		starts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "outbox_pipeline_child_starts_total", Help: "Starts of the child process.",
		}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_pipeline_child_ends_total", Help: "Ends of the child process that were not asked for, by name of the failure.",
		}, []string{"failure"}),
	}
	for _, s := range []string{"none", "1xx", "2xx", "3xx", "4xx", "5xx", "other"} {
		m.responses.WithLabelValues(s)
	}
	for _, c := range []*fault.Code{fault.ChildDied, fault.ChildProtocol, fault.ChildSilent, fault.ChildStart} {
		m.ends.WithLabelValues(c.Name)
	}
	reg.MustRegister(m.responses, m.starts, m.ends)
	return m
}

// response counts a status; 0 is none.
func (m *Metrics) response(code int) {
	if m == nil {
		return
	}
	label := "other"
	switch {
	case code == 0:
		label = "none"
	case code >= 100 && code <= 599:
		label = strconv.Itoa(code/100) + "xx"
	}
	m.responses.WithLabelValues(label).Inc()
}

func (m *Metrics) started() {
	if m != nil {
		m.starts.Inc()
	}
}

func (m *Metrics) ended(code *fault.Code) {
	if m != nil {
		m.ends.WithLabelValues(code.Name).Inc()
	}
}
