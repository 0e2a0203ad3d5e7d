package breaker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics of the breakers of a process, by name; nil works and counts nothing.
type Metrics struct {
	states      *prometheus.GaugeVec
	transitions *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		states: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "outbox_circuit_breaker_state", Help: "1 for the state that the breaker is in.",
		}, []string{"name", "state"}),
		transitions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_circuit_breaker_transitions_total", Help: "Changes of the breaker, by the state that it came to.",
		}, []string{"name", "to"}),
	}
}

var states = []State{Closed, HalfOpen, Open}

// start makes the series of a breaker exist before anything happens to it.
func (m *Metrics) start(name string) {
	if m == nil {
		return
	}
	for _, s := range states {
		m.transitions.WithLabelValues(name, string(s))
	}
	m.show(name, Closed)
}

func (m *Metrics) changed(name string, to State) {
	if m == nil {
		return
	}
	m.transitions.WithLabelValues(name, string(to)).Inc()
	m.show(name, to)
}

func (m *Metrics) show(name string, now State) {
	for _, s := range states {
		v := 0.0
		if s == now {
			v = 1
		}
		m.states.WithLabelValues(name, string(s)).Set(v)
	}
}
