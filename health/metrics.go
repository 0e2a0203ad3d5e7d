package health

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
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

// MetricsHandler serves a gatherer in whatever format the scraper asks for. To
// the classic text format it adds the bare names, untyped, read from the
// counters themselves so that the two cannot differ. In OpenMetrics the bare
// name would be a second family of one name, so it is left out there.
func MetricsHandler(g prometheus.Gatherer) http.Handler {
	opts := promhttp.HandlerOpts{EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError}
	plain := promhttp.HandlerFor(g, opts)
	aliased := promhttp.HandlerFor(withBareNames(g), opts)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...).FormatType() == expfmt.TypeTextPlain {
			aliased.ServeHTTP(w, r)
			return
		}
		plain.ServeHTTP(w, r)
	})
}

// withBareNames adds the bare families to what is gathered.
func withBareNames(g prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := g.Gather()
		for _, f := range families {
			for _, name := range bareNames {
				if f.GetType() == dto.MetricType_COUNTER && f.GetName() == name+"_total" {
					families = append(families, bare(name, f))
				}
			}
		}
		return families, err
	})
}

func bare(name string, counter *dto.MetricFamily) *dto.MetricFamily {
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
