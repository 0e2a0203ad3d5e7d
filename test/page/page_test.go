package page

import (
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/fault"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// shots takes the pictures that people look at: wide and narrow, light and dark.
// Without somebody to look at them, only the narrow one is measured.
func shots(t *testing.T, b *browser, name string) {
	schemes := []string{"light", "dark"}
	if os.Getenv("OUTBOX_PAGE_SHOTS") == "" {
		schemes = schemes[:1]
	}
	for _, scheme := range schemes {
		b.scheme(t, scheme)
		b.size(t, 1200, 800)
		b.shoot(t, name+"-"+scheme)
		b.size(t, 360, 780)
		b.eval(t, "return new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
		if wide, _ := b.eval(t, "return document.documentElement.scrollWidth").(float64); wide > 360 {
			t.Errorf("at 360 px the page is %v wide", wide)
		}
		b.shoot(t, name+"-"+scheme+"-phone")
	}
	b.scheme(t, "light")
	b.size(t, 1280, 900)
}

func (s *stage) well() {
	s.set(func() {
		s.checks = map[string]health.Result{
			"postgres": {Status: health.Pass, Facts: map[string]any{"server_version": "17.5"}},
			"slot":     {Status: health.Pass, Facts: map[string]any{"active": true, "wal_status": "reserved", "retained_bytes": 18 * mib}},
			"lag":      {Status: health.Pass, Facts: map[string]any{"seconds": 0.0, "bytes": 696}},
			"dlq":      {Status: health.Pass, Facts: map[string]any{"records": 3}},
			"kafka":    {Status: health.Pass, Facts: map[string]any{"brokers": 3, "breaker": "closed"}},
		}
	})
}

func TestEmpty(t *testing.T) {
	b, s := open(t), newStage(t, "")
	s.streaming(40 * time.Second)
	s.well()
	s.set(func() { s.view, s.lag = server(16*mib, 56, gib), 0 })
	s.rec.Opened(&checkpoint.Checkpoint{Seq: 1, Pos: checkpoint.Position{Timeline: 1, EndLSN: 0x5A01C44A58}, Time: time.Now()})
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Yes' && !document.querySelector('#first').hidden && document.querySelectorAll('#checks li').length > 4")
	if got := b.text(t, "#first"); !strings.Contains(got, "INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)") {
		t.Errorf("it does not say what to type: %s", got)
	}
	if got := b.text(t, "#recent-empty"); got != "None yet in this process." {
		t.Errorf("the table says %q", got)
	}
	shots(t, b, "empty")
	b.clean(t)
}

func healthy(s *stage) {
	s.streaming(51 * time.Hour)
	s.letters = 3
	s.commits(214, 6*time.Millisecond, 18_204_117)
	s.keep(214, 6*time.Millisecond)
	s.well()
	rng := rand.New(rand.NewPCG(1, 1))
	s.set(func() {
		s.view, s.lag = server(18*mib, 696, gib), 0
		s.past = func(age float64) (lag, rows, retained, p50, p99 float64) {
			rows = 210 + 40*math.Sin(age/90) + 12*rng.Float64()
			return 0.02 * rng.Float64(), rows, 16*mib + math.Mod(900-age, 180)/180*9*mib, 0.006 + 0.001*rng.Float64(), 0.012 + 0.006*rng.Float64()
		}
	})
}

func TestHealthy(t *testing.T) {
	b, s := open(t), newStage(t, "")
	healthy(s)
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelector('#answer-lag .say').textContent === 'Not at all' && document.querySelectorAll('#recent tbody tr').length === 50 && document.querySelectorAll('#charts path').length > 4 && document.querySelectorAll('#checks li').length === 6")
	for selector, want := range map[string]string{
		"#answer-state": "Yes", "#answer-disk": "No", "#answer-lag": "Not at all", "#slot-body": "18.0 MiB kept of 1.0 GiB", "#letters-count": "3 written since init",
	} {
		if got := b.text(t, selector); !strings.Contains(got, want) {
			t.Errorf("%s says %q, want %q", selector, got, want)
		}
	}
	if got := b.text(t, "#path"); !strings.Contains(got, "18,204,") || !strings.Contains(got, "3 dead letters") {
		t.Errorf("the way says %q", got)
	}
	if n := b.eval(t, "return document.querySelectorAll('.matter').length"); n != 0.0 {
		t.Errorf("%v matters in a healthy state", n)
	}
	shots(t, b, "healthy")

	// The search is at work while rows come in.
	b.eval(t, "document.querySelector('#find').focus()")
	b.keys(t, "shipped")
	b.await(t, "document.querySelectorAll('#recent tbody tr').length > 5 && [...document.querySelectorAll('#recent tbody tr')].every((r) => r.innerText.includes('OrderShipped'))")
	b.keys(t, "zzz")
	b.await(t, "document.querySelector('#recent-empty').innerText.startsWith('None of the last 50')")
	b.clean(t)
}

func TestLagging(t *testing.T) {
	b, s := open(t), newStage(t, "")
	s.streaming(26 * time.Minute)
	s.letters = 3
	s.commits(900, 412*time.Second, 18_204_117)
	s.keep(900, 412*time.Second)
	s.well()
	left := 5400.0
	s.set(func() {
		s.view, s.lag = server(640*mib, 590*mib, gib), 412
		s.view["seconds_to_loss"], s.view["wal_bytes_per_second"] = left, 74_000.0
		s.view["slot"].(map[string]any)["wal_status"] = "extended"
		s.view["findings"] = []any{map[string]any{
			"code": "OBX-4200", "name": "slot_retention", "severity": "warn", "detail": "slot outbox_relay retains 640 MiB of 1 GiB",
			"why": "Postgres keeps the WAL that the slot has not confirmed, and more than half of the limit is used", "fix": "ALTER SYSTEM SET max_slot_wal_keep_size = '8GB'; SELECT pg_reload_conf();",
		}}
		s.checks["lag"] = health.Result{Status: health.Warn, Code: fault.LagHigh.ID, Hint: fault.LagHigh.Fix, Facts: map[string]any{"seconds": 412.0, "bytes": 590 * mib}}
		s.past = func(age float64) (lag, rows, retained, p50, p99 float64) {
			grown := math.Max(0, 700-age)
			return grown * 0.59, 900, 16*mib + grown*0.89*mib, 0.006 + grown*0.58, 0.012 + grown*0.6
		}
	})
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelector('#answer-lag').dataset.tone === 'bad' && document.querySelectorAll('.matter').length === 1 && document.querySelectorAll('#checks li').length === 6")
	for selector, want := range map[string]string{"#answer-disk": "Slot lost in 90 min", "#answer-lag": "6 min 52 s", "#matters": "ALTER SYSTEM SET max_slot_wal_keep_size", "#checks": "OBX-4240"} {
		if got := b.text(t, selector); !strings.Contains(got, want) {
			t.Errorf("%s says %q, want %q", selector, got, want)
		}
	}
	shots(t, b, "lagging")
	b.clean(t)
}

func TestBroken(t *testing.T) {
	b, s := open(t), newStage(t, "")
	s.commits(0, 0, 18_204_117)
	s.well()
	s.trouble("halted", fault.Gap, "slot outbox_relay is at 5A/1C44D10, the checkpoint at 5A/1C44A58")
	s.set(func() {
		s.view, s.lag = server(740*mib, 700*mib, nil), math.NaN()
		s.view["slot"].(map[string]any)["active"], s.view["slot"].(map[string]any)["holder"] = false, ""
		s.checks["slot"] = health.Result{Status: health.Warn, Facts: map[string]any{"active": false, "retained_bytes": 740 * mib}}
	})
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelector('#answer-state').dataset.tone === 'bad' && document.querySelectorAll('#checks li').length === 6")
	for selector, want := range map[string]string{"#answer-state": "OBX-4008 gap", "#matters": "--accept-gap <checkpoint>:<slot>", "#answer-disk": "grows by 14.6 GiB a day"} {
		if got := b.text(t, selector); !strings.Contains(got, want) {
			t.Errorf("%s says %q, want %q", selector, got, want)
		}
	}
	if title, _ := b.eval(t, "return document.title").(string); !strings.HasPrefix(title, "■ Halted") {
		t.Errorf("the title is %q", title)
	}
	// The manual's section comes from the relay itself.
	b.eval(t, "document.querySelector('.matter button[aria-expanded]').click()")
	b.await(t, "document.querySelector('.about').innerText.includes('checkpoint show')")
	shots(t, b, "broken")
	b.clean(t)
}

func TestPostgresDown(t *testing.T) {
	b, s := open(t), newStage(t, "")
	s.commits(0, 0, 18_204_117)
	s.well()
	s.trouble("backoff", fault.PostgresUnreachable, "connect to db:5432: connection refused")
	s.set(func() {
		s.view = server(18*mib, 696, gib)
		s.view["reachable"] = false
		s.view["error"] = map[string]any{"code": "OBX-3001", "name": "postgres_unreachable", "detail": "connection refused", "why": "no connection", "fix": "check it"}
	})
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Waiting'")
	for selector, want := range map[string]string{"#answer-state": "OBX-3001", "#answer-disk": "the slot held 18.0 MiB", "#path": "no answer", "#slot-body": "As of"} {
		if got := b.text(t, selector); !strings.Contains(got, want) {
			t.Errorf("%s says %q, want %q", selector, got, want)
		}
	}
	if n := b.eval(t, "return document.querySelectorAll('.wire[data-flow=cut]').length"); n != 2.0 {
		t.Errorf("%v wires are cut", n)
	}
	shots(t, b, "postgres-down")
	b.clean(t)
}

func TestKafkaDownStandbyPausedDisabled(t *testing.T) {
	b, s := open(t), newStage(t, "")
	s.well()
	s.set(func() { s.view = server(18*mib, 696, gib) })
	s.trouble("backoff", fault.BreakerOpen, "Kafka is tried again at 10:20")
	b.visit(t, s.URL+"/")
	b.await(t, "document.querySelector('#answer-state .sub').textContent.includes('OBX-4030')")
	st := s.state.Get()
	st.Breaker = "open"
	s.state.Set(st)
	b.await(t, "document.querySelector('#path').innerText.includes('no session')")
	if got := b.text(t, "#answer-disk"); !strings.Contains(got, "Slot lost in 96 min") {
		t.Errorf("what Kafka's absence does to the disk is not told: %s", got)
	}
	shots(t, b, "kafka-down")

	s.state.Set(health.Status{State: "standby", Role: "standby", Ready: true, Breaker: "closed"})
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Standby'")
	if tone := b.eval(t, "return document.querySelector('#answer-state').dataset.tone"); tone != "ok" {
		t.Errorf("a standby is %v", tone)
	}
	if got := b.text(t, "#path") + b.text(t, "#letters-count"); strings.Contains(got, "since init") {
		t.Errorf("a standby tells totals that it does not know: %s", got)
	}
	if !strings.Contains(b.text(t, "#announce"), "standby") {
		t.Errorf("the change is not announced: %s", b.text(t, "#announce"))
	}

	s.streaming(time.Minute)
	s.set(func() {
		v := server(18*mib, 696, gib)
		v["paused"], v["paused_by"], v["paused_reason"] = true, "ann", "switchover"
		s.view = v
	})
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Paused'")
	if got := b.text(t, "#answer-state"); !strings.Contains(got, "by ann: switchover") {
		t.Errorf("it does not say who paused: %s", got)
	}
	shots(t, b, "paused")

	s.state.Set(health.Status{State: "disabled", Ready: true})
	s.set(func() { s.view = nil })
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Switched off'")
	b.clean(t)
}
