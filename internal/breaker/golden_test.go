package breaker

import (
	"bytes"
	"context"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
)

var update = flag.Bool("update", false, "record golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update records it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// Names and label values are public: they stand in alerts and dashboards.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		scrape := func() string {
			w := httptest.NewRecorder()
			promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			return w.Body.String()
		}
		b := New(Config{Failures: 1}, Options{Name: "kafka", Log: zerolog.Nop(), Metrics: NewMetrics(reg), Probe: func(context.Context) error { return nil }})
		text := "# at start\n" + scrape()
		_ = b.Do(t.Context(), func() error { return refused })
		text += "# open\n" + scrape()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		settle(DefaultReset + time.Second)
		text += "# closed again\n" + scrape()
		cancel()
		<-done
		golden(t, "metrics.txt", text)
		if lint, err := promlint.New(strings.NewReader(scrape())).Lint(); err != nil || len(lint) > 0 {
			t.Errorf("%v %v", lint, err)
		}
	})
}

// An hour of outage and what it says: not a line each time the same happens.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := &bench{}
		b.is(refused)
		b.Breaker = New(Config{}, Options{Name: "kafka", Log: zerolog.New(&log), Probe: b.probe})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		for range 5 {
			_ = b.attempt(ctx)
		}
		settle(42 * time.Minute)
		b.is(fault.New(fault.KafkaAuth, "reach Kafka")) // it is back, and knows us no more
		settle(12 * time.Minute)
		b.is(nil)
		settle(10 * time.Minute)
		b.is(refused) // a second outage
		for range 5 {
			_ = b.attempt(ctx)
		}
		cancel()
		<-done
		golden(t, "log.jsonl", log.String())
	})
}
