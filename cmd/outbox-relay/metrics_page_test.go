package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/secret"
)

const metricsPage = "../../docs/metrics.md"

// exported is one metric as the page shows it.
type exported struct {
	name, kind, help string
	labels           []string
}

// TestMetricsPage writes docs/metrics.md, which dashboard and alert rules are
// checked against, and fails if it is not what is exported.
func TestMetricsPage(t *testing.T) {
	got := renderMetrics(t)
	if *update {
		if err := os.WriteFile(metricsPage, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/metrics.md is not what `make docs` writes (-file +metrics):\n%s", diff)
	}
}

// What is said about a metric is said about one that there is, and nothing is
// left to guess.
func TestMetricsAreExplained(t *testing.T) {
	there := map[string]bool{}
	for _, m := range append(servedMetrics(t), pipelineMetrics(t)...) {
		there[m.name] = true
		if watchFor[m.name] == "" && !strings.HasPrefix(m.name, "outbox_kafka_client_") {
			t.Errorf("%s: nothing is said about what to watch for", m.name)
		}
	}
	for name := range watchFor {
		if !there[name] {
			t.Errorf("%s is explained and not exported", name)
		}
	}
}

// servedMetrics are those of serve.
func servedMetrics(t *testing.T) []exported {
	t.Helper()
	cfg := config.Default()
	cfg.Database.URL = secret.New("postgres://localhost:1/db")
	p := newParts(cfg, zerolog.Nop())
	playKafka(t, p)
	s := &service{parts: p, state: health.NewState()}
	s.breaker = s.newBreaker()
	if _, err := s.newGuard(); err != nil {
		t.Fatal(err)
	}
	return scraped(t, p.reg, health.New(config.Default().Health, health.About{}, s.state, nil, p.reg))
}

// pipelineMetrics are those that only pipeline has, and the consumer library.
func pipelineMetrics(t *testing.T) []exported {
	t.Helper()
	p := newPiping(config.Default(), zerolog.Nop())
	_, err := consumer.New(consumer.Config{
		Client: []kgo.Opt{kgo.SeedBrokers("localhost:1")}, Group: "g", Topics: []string{"t"}, Registerer: p.reg,
		Handler: func(context.Context, consumer.Event) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	all := scraped(t, p.reg, health.New(config.Default().Health, health.About{}, p.state, nil, p.reg))
	return slices.DeleteFunc(all, func(m exported) bool {
		return !strings.HasPrefix(m.name, "outbox_consumer_") && !strings.HasPrefix(m.name, "outbox_pipeline_")
	})
}

// playKafka lets a client live that has done everything once, so that what is
// counted of clients is there.
func playKafka(t *testing.T, p *parts) {
	t.Helper()
	p.cfg.Kafka.Client.Brokers = []string{"localhost:1"}
	p.cfg.Kafka.Client.TLS.Mode, p.cfg.Kafka.Client.TLS.CAFile = kafka.On, caFile(t)
	if err := p.reach(t.Context(), "probe"); err == nil {
		t.Fatal("somebody answers on port 1")
	}
	opts, err := p.client("sink")
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	node := kgo.BrokerMetadata{NodeID: 1}
	hooks := reflect.ValueOf(cl.OptValue(kgo.WithHooks)) // a slice whose type is the library's own
	for i := range hooks.Len() {
		h := hooks.Index(i).Interface()
		if h, ok := h.(kgo.HookBrokerConnect); ok {
			h.OnBrokerConnect(node, time.Millisecond, nil, nil)
			h.OnBrokerConnect(node, time.Millisecond, nil, os.ErrDeadlineExceeded)
		}
		if h, ok := h.(kgo.HookBrokerDisconnect); ok {
			h.OnBrokerDisconnect(node, nil)
		}
		if h, ok := h.(kgo.HookBrokerWrite); ok {
			h.OnBrokerWrite(node, 0, 1, time.Millisecond, time.Millisecond, nil)
			h.OnBrokerWrite(node, 0, 1, time.Millisecond, time.Millisecond, os.ErrDeadlineExceeded)
		}
		if h, ok := h.(kgo.HookBrokerRead); ok {
			h.OnBrokerRead(node, 0, 1, time.Millisecond, time.Millisecond, nil)
			h.OnBrokerRead(node, 0, 1, time.Millisecond, time.Millisecond, os.ErrDeadlineExceeded)
		}
		if h, ok := h.(kgo.HookBrokerE2E); ok {
			h.OnBrokerE2E(node, 0, kgo.BrokerE2E{})
		}
		if h, ok := h.(kgo.HookBrokerThrottle); ok {
			h.OnBrokerThrottle(node, time.Millisecond, true)
		}
		if h, ok := h.(kgo.HookProduceBatchWritten); ok {
			h.OnProduceBatchWritten(node, "t", 0, kgo.ProduceBatchMetrics{})
		}
		if h, ok := h.(kgo.HookFetchBatchRead); ok {
			h.OnFetchBatchRead(node, "t", 0, kgo.FetchBatchMetrics{})
		}
	}
}

// caFile is an authority that nobody trusts.
func caFile(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

var described = regexp.MustCompile(`fqName: "([^"]+)", help: "(.*?)"(?:, unit: "[^"]*")?, constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// scraped reads what a server answers, and adds what is registered and has no
// series yet, such as those of a slot that nobody has asked for.
func scraped(t *testing.T, reg *prometheus.Registry, web *health.Server) []exported {
	t.Helper()
	rec := httptest.NewRecorder()
	web.ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	text := rec.Body.String()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var out []exported
	for name, f := range families {
		if ours(name) {
			out = append(out, exported{name: name, kind: strings.ToLower(f.GetType().String()), help: f.GetHelp(), labels: labelsOf(f)})
		}
	}
	descs := make(chan *prometheus.Desc)
	go func() { defer close(descs); reg.Describe(descs) }()
	for d := range descs {
		m := described.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("not understood: %s", d)
		}
		if _, seen := families[m[1]]; seen || !ours(m[1]) {
			continue
		}
		kind := "gauge"
		if strings.HasSuffix(m[1], "_total") {
			kind = "counter"
		}
		e := exported{name: m[1], kind: kind, help: m[2]}
		for l := range strings.SplitSeq(m[4], ",") {
			if l != "" {
				e.labels = append(e.labels, l)
			}
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b exported) int { return strings.Compare(a.name, b.name) })
	return out
}

func ours(name string) bool {
	return strings.HasPrefix(name, "outbox_") || strings.HasPrefix(name, "kafka_")
}

// openLabels are those whose values are not known beforehand.
var openLabels = []string{"topic", "slot", "name", "node_id", "group", "relay", "version", "commit", "goversion", "check", "partition", "le", "reason", "code", "role", "failure"}

// labelsOf are the labels of a family, with their values where these are few.
func labelsOf(f *dto.MetricFamily) []string {
	values := map[string][]string{}
	var names []string
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if !slices.Contains(names, l.GetName()) {
				names = append(names, l.GetName())
			}
			if v := values[l.GetName()]; !slices.Contains(v, l.GetValue()) {
				values[l.GetName()] = append(v, l.GetValue())
			}
		}
	}
	slices.Sort(names)
	for i, n := range names {
		// The name of the one breaker is worth saying; other names are open.
		if !slices.Contains(openLabels, n) {
			slices.Sort(values[n])
			names[i] = n + "=" + strings.Join(values[n], ",")
		}
	}
	return names
}

func renderMetrics(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(metricsIntro)
	served := servedMetrics(t)
	for _, s := range metricSections {
		fmt.Fprintf(&b, "\n## %s\n\n", s.title)
		if s.text != "" {
			b.WriteString(s.text + "\n\n")
		}
		from := served
		if s.pipeline {
			from = pipelineMetrics(t)
		}
		b.WriteString("| metric | type | labels | what it is | watch for |\n|---|---|---|---|---|\n")
		for _, m := range from {
			if sectionOf(m.name) == s.title {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", m.name, kindOf(m), m.labelText(), strings.ReplaceAll(m.help, "|", "\\|"), watchFor[m.name])
			}
		}
	}
	b.WriteString(metricsEnd)
	return b.String()
}

func kindOf(m exported) string {
	unit := ""
	switch name := strings.TrimSuffix(m.name, "_total"); {
	case strings.HasSuffix(name, "_timestamp_seconds"):
		unit = ", Unix time"
	case strings.Contains(name, "bytes_per_second"):
		unit = ", bytes/s"
	case strings.Contains(name, "_seconds"):
		unit = ", seconds"
	case strings.HasSuffix(name, "_bytes"):
		unit = ", bytes"
	}
	return m.kind + unit
}

func (m exported) labelText() string {
	out := make([]string, len(m.labels))
	for i, l := range m.labels {
		name, values, known := strings.Cut(l, "=")
		out[i] = "`" + name + "`"
		if known {
			out[i] += ": " + strings.ReplaceAll(values, ",", ", ")
		}
	}
	return strings.Join(out, "; ")
}

// sectionOf is where a metric is told of.
func sectionOf(name string) string {
	for _, s := range metricSections {
		if slices.Contains(s.names, name) {
			return s.title
		}
	}
	for _, s := range metricSections {
		if slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			return s.title
		}
	}
	return metricSections[0].title
}
