package monitor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// quiet are panels that have nothing to show on a sound relay.
var quiet = map[string]string{
	"Throttled by quotas": "no broker has made a client wait",
	"Time to loss":        "the slot keeps up",
}

// quietMetrics are the same for alerts.
var quietMetrics = []string{"outbox_slot_seconds_to_loss"}

// What the panels of a dashboard are told to be by a person who looks at them.
var chosen = strings.NewReplacer("$job", "outbox-relay", "$instance", ".*", "$topic", ".*", "$__rate_interval", "30s", "$__interval", "15s", "$__range", "5m")

// A real Prometheus scrapes two replicas on real servers, with TLS, a limit on
// the slot, a load with rows that become letters and a take-over. Every query of
// the dashboard then has something to show, every metric that an alert looks at
// is there, and the one alert fires that must.
func TestLive(t *testing.T) {
	rig.Real(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	k := harness.NewSecureKafka(t)
	r := rig.New(t, rig.Config{
		Postgres: harness.NewPostgres(t, harness.PostgresConfig{Settings: map[string]string{"max_slot_wal_keep_size": "1GB"}}),
		Kafka:    k.KafkaServer, Brokers: []string{k.Listener(harness.ListenMutual)},
		EventSettings: map[string]string{"max.message.bytes": "65536"},
		Env: map[string]string{
			"KAFKA_SSL": "true", "KAFKA_TLS_CA_FILE": k.CA, "KAFKA_TLS_CERT_FILE": k.ClientCert, "KAFKA_TLS_KEY_FILE": k.ClientKey,
			"HEALTH_INCLUDE_KAFKA": "true",
		},
	})
	r.Init(t)
	first := r.Serve(t, nil)
	rig.AwaitStreaming(t, first)
	second := r.Serve(t, nil)
	addr := func(relay *harness.Relay) string { return strings.TrimPrefix(relay.HealthURL(), "http://") }
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	p := harness.NewPrometheus(t, map[string][]string{"outbox-relay": {addr(first), addr(second)}}, rules)
	if err := load.Prepare(ctx, r.Conn(t)); err != nil {
		t.Fatal(err)
	}
	stop := r.Load(t, load.Config{Seed: 1, Pause: 50 * time.Millisecond, Poisons: []load.Poison{load.Oversize}, PoisonShare: 0.02, OversizeBytes: 70_000})
	defer stop()
	await(ctx, t, p, `sum(increase(outbox_dlq_records_total[1m])) > 0 and sum(outbox_slot_active) == 2`)
	await(ctx, t, p, `sum(outbox_relay_state{state="standby"}) == 1`)
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	await(ctx, t, p, fmt.Sprintf(`outbox_leader{instance=%q} == 1`, addr(second)))
	r.Serve(t, map[string]string{"HEALTH_ADDR": addr(first)})

	t.Run("dashboards", func(t *testing.T) {
		n := 0
		for _, file := range []string{"outbox-relay.json", "outbox-relay-around.json"} {
			for title, exprs := range queries(dashboardOf(t, file)) {
				for _, expr := range exprs {
					if foreign(expr) || quiet[title] != "" {
						continue
					}
					n++
					await(ctx, t, p, chosen.Replace(expr))
				}
			}
		}
		t.Logf("%d queries were asked, and %d panels left out as quiet", n, len(quiet))
	})
	t.Run("alerts", func(t *testing.T) {
		seen := map[string]bool{}
		for _, a := range alerts(t) {
			selectors, _ := read(a.Expr)
			for _, s := range selectors {
				expr := s.metric + "{" + s.matchers + "}"
				if !seen[expr] && !slices.Contains(quietMetrics, s.metric) {
					await(ctx, t, p, "count("+expr+")")
				}
				seen[expr] = true
			}
		}
		await(ctx, t, p, `ALERTS{alertname="OutboxDLQGrowing",alertstate="firing",reason="too_large"}`)
		if sick, err := p.Sick(ctx); err != nil || len(sick) > 0 {
			t.Error(sick, err)
		}
		if fires, err := p.Query(ctx, `ALERTS{alertstate="firing",alertname!="OutboxDLQGrowing"}`); err != nil || len(fires) > 0 {
			t.Errorf("alerts on a sound relay: %v %v", fires, err)
		}
		t.Logf("%d of %d selectors were asked", len(seen)-len(quietMetrics), len(seen))
	})
	t.Run("names of the specification", func(t *testing.T) {
		for _, name := range []string{
			"kafka_connections", "kafka_connection_errors", "kafka_outbox_published", "kafka_outbox_publish_errors",
			"kafka_outbox_batch_failures", "kafka_producer_init_failures",
		} {
			await(ctx, t, p, name)
		}
	})
	t.Run("promtool", func(t *testing.T) {
		bin := harness.Promtool(t)
		for _, relay := range []string{addr(first), addr(second)} {
			cmd := exec.CommandContext(ctx, bin, "check", "metrics")
			cmd.Stdin = bytes.NewReader(scrape(ctx, t, relay))
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("promtool check metrics: %v\n%s", err, out)
			}
		}
	})
	t.Run("standby", func(t *testing.T) {
		await(ctx, t, p, fmt.Sprintf(`outbox_relay_state{instance=%q,state="standby"} == 1 and on () outbox_lag_seconds{instance=%q} == 0`, addr(first), addr(first)))
	})
}

// queries are the expressions of a dashboard by panel.
func queries(d dashboard) map[string][]string {
	out := map[string][]string{}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			out[p.Title] = append(out[p.Title], q.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		out[a.Name] = append(out[a.Name], a.Expr)
	}
	return out
}

// await asks until there is a sample that is a number.
func await(ctx context.Context, t *testing.T, p *harness.Prometheus, expr string) {
	t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	limit := time.Now().Add(40 * time.Second)
	for {
		samples, err := p.Query(ctx, expr)
		if err == nil && slices.ContainsFunc(samples, func(s harness.Sample) bool { return !math.IsNaN(s.Value) }) {
			return
		}
		if time.Now().After(limit) || ctx.Err() != nil {
			t.Errorf("no data: %s: %v %v", expr, samples, err)
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func scrape(ctx context.Context, t *testing.T, addr string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
