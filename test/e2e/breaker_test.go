package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// outage is how long Kafka stays down: 25 s, OUTBOX_OUTAGE_SECONDS elsewhere.
func outage(t testing.TB) time.Duration {
	t.Helper()
	s := os.Getenv("OUTBOX_OUTAGE_SECONDS")
	if s == "" {
		return 25 * time.Second
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("OUTBOX_OUTAGE_SECONDS: %v", err)
	}
	return time.Duration(n) * time.Second
}

// breakerIs matches the line that the breaker writes when it comes to a state.
func breakerIs(state string) func(map[string]any) bool {
	return func(m map[string]any) bool { return m["msg"] == "circuit breaker" && m["to"] == state }
}

// attempts counts the sessions that were not opened.
func attempts(lines []map[string]any) (n int) {
	for _, m := range lines {
		if m["msg"] == "Kafka session not opened, holding the slot" {
			n++
		}
	}
	return n
}

// find is where the first line after the first n stands that matches; the
// number of lines if there is none.
func find(lines []map[string]any, n int, match func(map[string]any) bool) int {
	for i := n; i < len(lines); i++ {
		if match(lines[i]) {
			return i
		}
	}
	return len(lines)
}

// writtenAt is the time of a line.
func writtenAt(t testing.TB, line map[string]any) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, fmt.Sprint(line["time"]))
	if err != nil {
		t.Fatalf("line without a time: %v", line)
	}
	return at
}

// shows fails unless the HTTP face says of the breaker what it has to: open is
// alive and not ready, under its own name and with the words of its cause.
func shows(ctx context.Context, t testing.TB, relay *harness.Relay, cause map[string]any) {
	t.Helper()
	status, body := rig.Ready(ctx, relay)
	if status != http.StatusServiceUnavailable || body["code"] != "OBX-4030" || body["name"] != "breaker_open" || body["breaker"] == "closed" {
		t.Errorf("/readyz answers %d %v", status, body)
	}
	if why := fmt.Sprint(body["why"]); !strings.Contains(why, fmt.Sprint(cause["code"])) || body["fix"] != cause["hint"] {
		t.Errorf("/readyz says why %q and fix %q, and the cause was %v", why, body["fix"], cause)
	}
	resp, err := http.Get(relay.HealthURL() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("/livez answers %d", resp.StatusCode)
	}
	var report struct {
		Status, Breaker string
		Checks          map[string]map[string]any
	}
	text := get(ctx, t, relay.HealthURL()+"/api/health")
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatal(err)
	}
	if k := report.Checks["kafka"]; report.Status != "warn" || report.Breaker == "closed" || k["breaker"] != report.Breaker || k["code"] != "OBX-4030" || k["cause"] != cause["code"] {
		t.Errorf("/api/health answers %s", text)
	}
}

// appends calls outbox.Append every few milliseconds until the returned
// function is called, which tells how often, and what failed.
func appends(t testing.TB, r *rig.Rig) (end func() (n int, failed []error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	conn := r.Conn(t)
	var n int
	var failed []error
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			payload, _ := json.Marshal(verify.Mark{Run: "append", Key: "append", KeySeq: uint32(n + 1)})
			err := pgx.BeginFunc(context.Background(), conn, func(tx pgx.Tx) error {
				return outbox.Append(context.Background(), tx, outbox.Record{AggregateType: "order", AggregateID: "append", Type: "Created", Payload: payload})
			})
			if err != nil {
				failed = append(failed, err)
				continue
			}
			n++
		}
	})
	end = func() (int, []error) { cancel(); wg.Wait(); return n, failed }
	t.Cleanup(func() { end() })
	return end
}

// Kafka is down under load: what is written never fails, the fifth failure
// opens the breaker, nobody tries after that, two probes close it, and
// everything arrives once.
func TestBreakerKafkaDownUnderLoad(t *testing.T) {
	rig.Real(t)
	down := outage(t)
	ctx := within(t, down+80*time.Second)
	kafka := harness.NewKafka(t, harness.KafkaConfig{})
	env := map[string]string{"KAFKA_BREAKER_RESET": "10s", "HEALTH_INCLUDE_KAFKA": "true"}
	if down < time.Minute {
		// The default gives a commit under way half a minute.
		env["KAFKA_TRANSACTION_TIMEOUT"], env["KAFKA_BREAKER_RESET"] = "10s", "5s"
	}
	r := rig.New(t, rig.Config{Kafka: kafka, Env: env})
	r.Init(t)
	judge := r.Judge(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	stopLoad := r.Load(t, load.Config{
		Seed: 4, LargeRows: 500, Pause: 100 * time.Millisecond,
		Mix: load.Mix{Single: 60, Ten: 25, Large: 1, MultiKey: 10, Savepoint: 10, Rollback: 5},
	})
	stopAppends := appends(t, r)
	r.AwaitCaughtUp(ctx, t)

	n := len(relay.Logs())
	began := time.Now()
	if err := kafka.Kill(); err != nil {
		t.Fatal(err)
	}
	over := time.After(down)
	opened, err := relay.WaitLogAfter(ctx, n, breakerIs("open"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("open %.1f s after the end of Kafka, because of %v", writtenAt(t, opened).Sub(began).Seconds(), opened["cause"])
	shows(ctx, t, relay, map[string]any{"code": opened["cause"], "hint": opened["hint"]})
	if _, err := relay.WaitLogAfter(ctx, n, breakerIs("half-open")); err != nil {
		t.Error(err)
	}
	lines := relay.Logs()
	if got := attempts(lines[n:find(lines, n, breakerIs("open"))]); got != 5 {
		t.Errorf("%d attempts until it opened, want 5", got)
	}
	select {
	case <-over:
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
	if err := kafka.Start(ctx); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	closed, err := relay.WaitLogAfter(ctx, n, breakerIs("closed"))
	if err != nil {
		t.Fatal(err)
	}
	lines = relay.Logs()
	at := find(lines, n, breakerIs("closed"))
	if got := attempts(lines[find(lines, n, breakerIs("open")):at]); got != 0 {
		t.Errorf("%d attempts while it was open", got)
	}
	if _, err := relay.WaitLogAfter(ctx, at, rig.Message("streaming")); err != nil {
		t.Fatal(err)
	}
	t.Logf("down for %.0f s, closed %.1f s after that, %v rounds untold", down.Seconds(), writtenAt(t, closed).Sub(back).Seconds(), closed["repeated"])

	count, failed := stopAppends()
	totals := stopLoad()
	t.Logf("%d appends, load: %s", count, totals)
	if len(failed) > 0 || totals.Unknown > 0 || totals.Connections != 4 {
		t.Errorf("%d appends failed, first %v; load: %s", len(failed), failed, totals)
	}
	r.AwaitCaughtUp(ctx, t)
	if status, body := rig.Ready(ctx, relay); status != http.StatusOK || body["breaker"] != "closed" {
		t.Errorf("/readyz answers %d %v", status, body)
	}
	metrics := get(ctx, t, relay.HealthURL()+"/metrics")
	for _, line := range []string{
		`outbox_circuit_breaker_state{name="kafka",state="closed"} 1`, `outbox_circuit_breaker_state{name="kafka",state="open"} 0`,
		`outbox_circuit_breaker_transitions_total{name="kafka",to="closed"} 1`,
	} {
		if !strings.Contains(metrics, "\n"+line+"\n") {
			t.Errorf("/metrics does not have %s", line)
		}
	}
	judge.Verdict(t, verify.P1, verify.P2, verify.P3, verify.P4)
	stop(ctx, t, relay)
}

// Kafka is not there at the start and for longer than the breaker bears: serve
// comes up all the same, alive, unready and with a name for it, and delivers
// when Kafka comes. Who asks for it gets an end with status 3 instead. A
// Postgres that wants to stop meanwhile is not held up.
func TestBreakerKafkaAbsentAtStart(t *testing.T) {
	rig.Real(t)
	ctx := within(t, 90*time.Second)
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	kafka := harness.NewKafka(t, harness.KafkaConfig{})
	r := rig.New(t, rig.Config{Postgres: pg, Kafka: kafka, Env: map[string]string{
		"KAFKA_BREAKER_FAILURES": "2", "KAFKA_BREAKER_RESET": "8s", "HEALTH_INCLUDE_KAFKA": "true",
	}})
	plant(t, r)
	r.Init(t)
	if err := kafka.Kill(); err != nil {
		t.Fatal(err)
	}
	r.Env["KAFKA_VALIDATE_ON_STARTUP"] = "true"
	if out := r.Command(t, "serve"); out.ExitCode != 3 || !strings.Contains(out.Stderr, "OBX-50") {
		t.Errorf("with validation: exit status %d\n%s", out.ExitCode, out.Stderr)
	}
	delete(r.Env, "KAFKA_VALIDATE_ON_STARTUP")

	relay := r.Serve(t, nil)
	opened, err := relay.WaitLog(ctx, breakerIs("open"))
	if err != nil {
		t.Fatal(err)
	}
	shows(ctx, t, relay, map[string]any{"code": opened["cause"], "hint": opened["hint"]})
	r.Insert(t, 100)
	// Between two offers the slot is held.
	for tick := time.Tick(50 * time.Millisecond); holder(ctx, t, r) == 0; {
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatal("nobody holds the slot")
		}
	}
	stopFast(t, pg, 10*time.Second)
	harmless(t, answers(ctx, t, relay), relay.Stdout(), relay.Stderr())
	if err := pg.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := kafka.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := relay.WaitLog(ctx, rig.Message("streaming")); err != nil {
		t.Fatal(err)
	}
	r.AwaitCaughtUp(ctx, t)
	everyRowOnce(ctx, t, r, r.Events)
	stop(ctx, t, relay)
}

// Two replicas, and the one with the slot has no way to Kafka: when its breaker
// opens the other has the slot within seconds and keeps it. The one that is cut
// off is unready until Kafka answers it, and then a sound standby.
func TestBreakerOneReplicaCutOff(t *testing.T) {
	rig.Real(t)
	ctx := within(t, 90*time.Second)
	kafka, proxy := harness.NewProxiedKafka(t, harness.KafkaConfig{})
	r := rig.New(t, rig.Config{Kafka: kafka, Env: map[string]string{
		"KAFKA_BREAKER_FAILURES": "3", "KAFKA_BREAKER_RESET": "6s", "HEALTH_INCLUDE_KAFKA": "true",
	}})
	r.Init(t)
	proxy.Cut()
	first := r.Serve(t, nil)
	if _, err := first.WaitLog(ctx, func(m map[string]any) bool { return m["attempt"] == 1.0 }); err != nil {
		t.Fatal(err)
	}
	second := r.Serve(t, map[string]string{"KAFKA_BROKERS": strings.Join(kafka.Direct(), ",")})
	if _, err := second.WaitLog(ctx, rig.Message("standby")); err != nil {
		t.Fatal(err)
	}
	end := trickle(t, r)
	opened, err := first.WaitLog(ctx, breakerIs("open"))
	if err != nil {
		t.Fatal(err)
	}
	streaming, err := second.WaitLog(ctx, rig.Message("streaming"))
	if err != nil {
		t.Fatal(err)
	}
	took := writtenAt(t, streaming).Sub(writtenAt(t, opened))
	t.Logf("the other streams %.2f s after the breaker has opened", took.Seconds())
	if took < 0 || took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	r.AwaitCaughtUp(ctx, t)
	leader := holder(ctx, t, r)
	// A half-open that fails, and with it the next chance to snatch the slot.
	if _, err := first.WaitLog(ctx, func(m map[string]any) bool { return breakerIs("open")(m) && m["from"] == "half-open" }); err != nil {
		t.Fatal(err)
	}
	shows(ctx, t, first, map[string]any{"code": opened["cause"], "hint": opened["hint"]})
	if _, body := rig.Ready(ctx, first); body["state"] != "standby" {
		t.Errorf("the one that is cut off: %v", body)
	}
	if now := holder(ctx, t, r); now != leader {
		t.Errorf("the slot was held by PID %d and is by %d", leader, now)
	}

	if err := proxy.Restore(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.WaitLog(ctx, breakerIs("closed")); err != nil {
		t.Fatal(err)
	}
	if status, body := rig.Ready(ctx, first); status != http.StatusOK || body["state"] != "standby" {
		t.Errorf("/readyz of the one that is back: %d %v", status, body)
	}
	stop(ctx, t, second)
	if _, err := first.WaitLog(ctx, rig.Message("streaming")); err != nil {
		t.Fatal(err)
	}
	end()
	r.AwaitCaughtUp(ctx, t)
	everyRowOnce(ctx, t, r, r.Events)
	stop(ctx, t, first)
}
