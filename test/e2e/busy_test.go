package e2e

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// noise is a transaction of pgbench on a table that has nothing to do with the
// outbox: about 25 KB of WAL, and no growth of the table but for what vacuum
// takes back.
const noise = `\set id random(1, 190)
UPDATE noise SET pad = (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 55)) WHERE id BETWEEN :id AND :id + 9;
`

// slotLimit is max_slot_wal_keep_size of the server in MiB.
const slotLimit = 128

// An idle outbox on a busy server: the slot moves with the heartbeats, and what
// is retained stays below half of a small limit, however much is written. Then
// the relay is stopped, and a replica that only watches says so before the slot
// is lost: both the condition of the alerts and the guard's finding.
//
// OUTBOX_BUSY_SECONDS is the length of the first part, and OUTBOX_BUSY_RATE how
// many transactions pgbench makes per second.
func TestIdleOutboxOnABusyServer(t *testing.T) {
	rig.Real(t)
	pgbench, err := exec.LookPath("pgbench")
	if err != nil {
		t.Fatalf("pgbench comes with the server's packages: %v", err)
	}
	seconds, rate := number(t, "OUTBOX_BUSY_SECONDS", 15), number(t, "OUTBOX_BUSY_RATE", 600)
	pg := harness.NewPostgres(t, harness.PostgresConfig{Settings: map[string]string{
		"max_slot_wal_keep_size": fmt.Sprintf("%dMB", slotLimit), "min_wal_size": "32MB", "max_wal_size": "32MB",
		"autovacuum_naptime": "2s", "log_checkpoints": "off",
	}})
	r := rig.New(t, rig.Config{Postgres: pg, Env: map[string]string{"OUTBOX_GUARD_INTERVAL": "200ms"}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second+3*time.Minute)
	defer cancel()
	r.Init(t)
	r.Database.Exec(t, `CREATE TABLE noise (id int PRIMARY KEY, pad text) WITH (fillfactor = 50)`,
		`INSERT INTO noise SELECT i, repeat('x', 1700) FROM generate_series(1, 200) i`)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.Insert(t, 1)
	r.AwaitCaughtUp(ctx, t)
	_, began := r.Confirmed(ctx, t)
	stopNoise := makeNoise(ctx, t, pgbench, r.Database.URL(), rate)

	worst, looks := 0.0, 0
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end) && ctx.Err() == nil; looks++ {
		m := scrape(ctx, t, relay)
		worst = max(worst, m.retained)
		if m.status != "reserved" && m.status != "extended" || m.dangerous() {
			t.Fatalf("the relay runs, and the slot is in danger: %+v\n%s", m, relay.Output(20))
		}
		time.Sleep(200 * time.Millisecond)
	}
	_, now := r.Confirmed(ctx, t)
	written := now - began
	t.Logf("relay running: %d MiB of WAL in %d s, at most %.0f MiB retained of %d MiB that may be, %d looks",
		written>>20, seconds, worst/(1<<20), slotLimit, looks)
	if written < slotLimit<<20 {
		t.Errorf("only %d MiB were written: that proves nothing", written>>20)
	}
	if worst > slotLimit<<20/2 {
		t.Errorf("%.0f MiB were retained, more than half of the limit", worst/(1<<20))
	}

	watcher := r.Serve(t, map[string]string{"KAFKA_ENABLED": "false"})
	if _, err := watcher.WaitLog(ctx, rig.Message("outbox-relay starts")); err != nil {
		t.Fatal(err)
	}
	if m := scrape(ctx, t, watcher); m.dangerous() {
		t.Errorf("alarm while the relay runs: %+v", m)
	}
	stop(ctx, t, relay)
	alerted, found := "", ""
	for ctx.Err() == nil {
		m := scrape(ctx, t, watcher)
		if m.status == "lost" {
			break
		}
		at := fmt.Sprintf("%.0f MiB retained, %.0f s to loss, wal_status %s", m.retained/(1<<20), m.seconds, m.status)
		if m.dangerous() && alerted == "" {
			alerted = at
		}
		if health := get(ctx, t, watcher.HealthURL()+"/api/health"); found == "" && (strings.Contains(health, "OBX-4200") || strings.Contains(health, "OBX-4201")) {
			found = at
		}
		time.Sleep(100 * time.Millisecond)
	}
	stopNoise()
	t.Logf("relay stopped: alert true at: %s; finding at: %s; then lost", alerted, found)
	if alerted == "" || found == "" {
		t.Errorf("lost without a word: alert %q, finding %q", alerted, found)
	}
	for !strings.Contains(get(ctx, t, watcher.HealthURL()+"/api/health"), "OBX-3103") { // an answer may be a second old
		time.Sleep(100 * time.Millisecond)
	}
	stop(ctx, t, watcher)
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is no number", name, text)
	}
	return n
}

// makeNoise runs pgbench until the returned function is called.
func makeNoise(ctx context.Context, t *testing.T, pgbench, url string, rate int) (stop func()) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "noise.sql")
	if err := os.WriteFile(script, []byte(noise), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, pgbench, "--no-vacuum", "--client=2", "--time=86400", "--rate="+strconv.Itoa(rate), "--file="+script, url)
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	end := func() {
		select {
		case <-ended:
			t.Errorf("pgbench ended by itself:\n%s", out)
		default:
		}
		cancel()
		<-ended
	}
	t.Cleanup(func() { cancel(); <-ended })
	return end
}

// measured are the metrics that the alerts on the slot look at.
type measured struct {
	retained, limit, seconds float64 // seconds: +Inf if there are none
	status                   string
}

// dangerous is the condition of the alerts: more than half of the limit is
// retained, or the slot is lost within 4 hours.
func (m measured) dangerous() bool {
	return m.retained > m.limit/2 || m.seconds < (4*time.Hour).Seconds()
}

// scrape returns the newest numbers, waiting for the first.
func scrape(ctx context.Context, t *testing.T, relay *harness.Relay) measured {
	t.Helper()
	for {
		m := measured{seconds: math.Inf(1)}
		seen := false
		for _, line := range strings.Split(get(ctx, t, relay.HealthURL()+"/metrics"), "\n") {
			name, rest, _ := strings.Cut(line, "{")
			labels, text, ok := strings.Cut(rest, "} ")
			value, err := strconv.ParseFloat(text, 64)
			if !ok || err != nil {
				continue
			}
			switch name {
			case "outbox_slot_retained_bytes":
				m.retained, seen = value, true
			case "outbox_slot_limit_bytes":
				m.limit = value
			case "outbox_slot_seconds_to_loss":
				m.seconds = value
			case "outbox_slot_wal_status":
				if _, word, _ := strings.Cut(labels, `wal_status="`); value == 1 {
					m.status = strings.TrimSuffix(word, `"`)
				}
			}
		}
		if seen {
			return m
		}
		if ctx.Err() != nil {
			t.Fatalf("no metrics of a slot: %v", context.Cause(ctx))
		}
		time.Sleep(20 * time.Millisecond)
	}
}
