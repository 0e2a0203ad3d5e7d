package health

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

// bareNames are the metrics that must be found literally under a name that
// Prometheus reserves for the family of a counter: kafka_connections is both
// the promised name and, in OpenMetrics, the family of kafka_connections_total.
var bareNames = [...]string{
	"kafka_connections",
	"kafka_connection_errors",
	"kafka_outbox_published",
	"kafka_outbox_publish_errors",
	"kafka_outbox_batch_failures",
	"kafka_producer_init_failures",
}

// MetricsHandler serves a gatherer. With bare, the names above are there too,
// untyped, read from the counters themselves so that the two cannot differ, and
// the answer is the classic text or protobuf whatever the scraper prefers: in
// OpenMetrics, which a Prometheus asks for by default, a bare name would be a
// second family of one name, and who looks for it in Prometheus would not find
// it. Without, OpenMetrics is offered.
func MetricsHandler(g prometheus.Gatherer, bare bool) http.Handler {
	if bare {
		g = withBareNames(g)
	}
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{EnableOpenMetrics: !bare, ErrorHandling: promhttp.ContinueOnError})
}

// withBareNames adds the bare families to what is gathered.
func withBareNames(g prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := g.Gather()
		for _, f := range families {
			for _, name := range bareNames {
				if f.GetType() == dto.MetricType_COUNTER && f.GetName() == name+"_total" {
					families = append(families, alias(name, f))
				}
			}
		}
		return families, err
	})
}

func alias(name string, counter *dto.MetricFamily) *dto.MetricFamily {
	f := &dto.MetricFamily{
		Name: proto.String(name),
		Help: proto.String(strings.TrimSuffix(counter.GetHelp(), ".") + ". Same as " + counter.GetName() + "."),
		Type: dto.MetricType_UNTYPED.Enum(),
	}
	for _, m := range counter.GetMetric() {
		f.Metric = append(f.Metric, &dto.Metric{
			Label:   m.GetLabel(),
			Untyped: &dto.Untyped{Value: proto.Float64(m.GetCounter().GetValue())},
		})
	}
	return f
}
