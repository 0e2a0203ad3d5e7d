package health

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// checkGauges shows the report as metrics. A scrape asks the checks, as a
// reader of the report does: at most once a second, and never for longer than
// the time-out of a check.
type checkGauges struct {
	server *Server
	desc   *prometheus.Desc
}

func newCheckGauges(s *Server) *checkGauges {
	return &checkGauges{server: s, desc: prometheus.NewDesc("outbox_health_check_status",
		"1 for the status of a check of /api/health; relay is the state of the relay itself.", []string{"check", "status"}, nil)}
}

// Describe implements prometheus.Collector.
func (g *checkGauges) Describe(ch chan<- *prometheus.Desc) { ch <- g.desc }

// Collect implements prometheus.Collector.
func (g *checkGauges) Collect(ch chan<- prometheus.Metric) {
	g.show(ch, "relay", g.server.state.Get().word())
	for name, r := range g.server.checks.results(context.Background()) {
		g.show(ch, name, r.Status)
	}
}

func (g *checkGauges) show(ch chan<- prometheus.Metric, check, now string) {
	for _, status := range []string{Pass, Warn, Fail, Disabled} {
		v := 0.0
		if status == now {
			v = 1
		}
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, v, check, status)
	}
}
