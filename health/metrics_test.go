package health

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// registry holds the promised counters as their owners register them.
func registry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	for i, name := range bareNames {
		opts := prometheus.CounterOpts{Name: name + "_total", Help: "Counts " + name + "."}
		if name == "kafka_connection_errors" {
			v := prometheus.NewCounterVec(opts, []string{"type"})
			v.WithLabelValues("dial").Add(7)
			v.WithLabelValues("tls")
			reg.MustRegister(v)
			continue
		}
		c := prometheus.NewCounter(opts)
		c.Add(float64(i))
		reg.MustRegister(c)
	}
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "outbox_lag_seconds", Help: "Age."})
	reg.MustRegister(g)
	return reg
}

func scrape(t *testing.T, bare bool, accept string) (body string, families map[string]bool) {
	t.Helper()
	srv := New(Config{BareNames: bare}, about, NewState(), map[string]Check{"lag": func(context.Context) Result { return Result{Status: Warn} }}, registry())
	code, body := get(t, srv, "/metrics", "Accept", accept)
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, body)
	}
	families = map[string]bool{}
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			families[strings.TrimSpace(rest)] = true
		}
	}
	return body, families
}

// prometheusAccepts is what Prometheus 2 and 3 ask for when nothing is set.
const prometheusAccepts = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"

func TestClassicTextHasTheBareNames(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"", "text/plain", "*/*", "text/plain;version=0.0.4;q=0.5", prometheusAccepts} {
		body, families := scrape(t, true, accept)
		for _, name := range bareNames {
			if !families[name+" untyped"] || !families[name+"_total counter"] {
				t.Errorf("%q: %s or its counter is missing:\n%s", accept, name, body)
			}
		}
		for _, sample := range []string{"kafka_connections 0\n", "kafka_outbox_published 2\n", "kafka_outbox_published_total 2\n", `kafka_connection_errors{type="dial"} 7` + "\n", `kafka_connection_errors{type="tls"} 0` + "\n", `outbox_health_check_status{check="lag",status="warn"} 1` + "\n", `outbox_health_check_status{check="lag",status="pass"} 0` + "\n", `outbox_health_check_status{check="relay",status="warn"} 1` + "\n"} {
			if !strings.Contains(body, "\n"+sample) {
				t.Errorf("%q: no sample %q in\n%s", accept, sample, body)
			}
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		if _, err := parser.TextToMetricFamilies(strings.NewReader(body)); err != nil {
			t.Errorf("%q: %v", accept, err)
		}
		problems, err := promlint.New(strings.NewReader(body)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestOpenMetricsHasOneFamilyPerName(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"application/openmetrics-text;version=1.0.0", prometheusAccepts} {
		body, families := scrape(t, false, accept)
		for _, name := range bareNames {
			if !families[name+" counter"] || strings.Count(body, "# TYPE "+name+" ") != 1 || strings.Contains(body, "\n"+name+" ") {
				t.Errorf("%q: %s:\n%s", accept, name, body)
			}
		}
		if !strings.HasSuffix(body, "# EOF\n") {
			t.Error("not OpenMetrics")
		}
	}
}

// Without the counters there are no aliases: a name that always reads 0 would
// be worse than none.
func TestNoCounterNoBareName(t *testing.T) {
	t.Parallel()
	srv := New(Config{BareNames: true}, about, NewState(), nil, prometheus.NewRegistry())
	if _, body := get(t, srv, "/metrics"); strings.Contains(body, "kafka_") {
		t.Error(body)
	}
}

// A Prometheus that takes native histograms asks for protobuf first.
func TestProtobufHasTheBareNames(t *testing.T) {
	t.Parallel()
	srv := New(Config{BareNames: true}, about, NewState(), nil, registry())
	_, body := get(t, srv, "/metrics", "Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,text/plain;version=0.0.4;q=0.3")
	dec := expfmt.NewDecoder(strings.NewReader(body), expfmt.NewFormat(expfmt.TypeProtoDelim))
	for n := 0; ; n++ {
		var f dto.MetricFamily
		if err := dec.Decode(&f); err != nil {
			t.Fatalf("kafka_connections is not among %d families: %v", n, err)
		}
		if f.GetName() == "kafka_connections" {
			return
		}
	}
}
