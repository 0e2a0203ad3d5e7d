package demo

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRelayEnvironment(t *testing.T) {
	caller := []string{
		"PATH=/bin", "OUTBOX_NAME=prod", "OUTBOX_ADMIN_URL=postgres://admin@prod", "DATABASE_URL=postgres://prod",
		"PGPASSWORD=secret", "KAFKA_SASL_PASSWORD=secret", "KAFKA_EVENTS_TOPIC=prod", "KAFKA_BROKERS=prod:9092", "HEALTH_ADDR=:8080",
	}
	tests := []struct {
		name        string
		cfg         Config
		stay, leave []string
	}{
		{
			"embedded",
			Config{Environ: caller},
			[]string{"PATH=/bin"},
			[]string{"PGPASSWORD=secret", "KAFKA_SASL_PASSWORD=secret", "OUTBOX_NAME=prod", "KAFKA_EVENTS_TOPIC=prod", "HEALTH_ADDR=:8080", "OUTBOX_ADMIN_URL=postgres://admin@prod"},
		},
		{
			"given",
			Config{Environ: caller, DatabaseURL: "postgres://prod", Brokers: []string{"prod:9092"}},
			[]string{"PGPASSWORD=secret", "KAFKA_SASL_PASSWORD=secret"},
			[]string{"OUTBOX_NAME=prod", "KAFKA_EVENTS_TOPIC=prod", "HEALTH_ADDR=:8080"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			env := test.cfg.relayEnv(newNames(true), "postgres://x", []string{"a:1", "b:2"}, "127.0.0.1:1")
			for _, kv := range append(test.stay, "DATABASE_URL=postgres://x", "KAFKA_BROKERS=a:1,b:2", "OUTBOX_AUTO_INIT=true") {
				if !slices.Contains(env, kv) {
					t.Errorf("lacks %s", kv)
				}
			}
			for _, kv := range test.leave {
				if slices.Contains(env, kv) {
					t.Errorf("passes on %s", kv)
				}
			}
			var set []string
			for _, kv := range env {
				name, _, _ := strings.Cut(kv, "=")
				if slices.Contains(set, name) {
					t.Errorf("sets %s twice", name)
				}
				set = append(set, name)
			}
		})
	}
}

func TestNamesOfForeignPartsAreTheirOwn(t *testing.T) {
	own, a, b := newNames(false), newNames(true), newNames(true)
	if own.slot != "outbox_relay" || own.events != "outbox.events" || own.checkpoint != "outbox.outbox.checkpoint" {
		t.Errorf("embedded parts have the names %+v, want the defaults", own)
	}
	if a == b || a.slot == own.slot || a.schema == own.schema || a.events == own.events || a.checkpoint == own.checkpoint {
		t.Errorf("names of foreign parts may be taken: %+v", a)
	}
}

func TestKillTimes(t *testing.T) {
	tests := []struct {
		run  time.Duration
		want []time.Duration
	}{
		{4 * time.Second, []time.Duration{2 * time.Second}},
		{12 * time.Second, []time.Duration{4 * time.Second, 8 * time.Second}},
		{20 * time.Second, []time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second}},
		{60 * time.Second, []time.Duration{8571428571, 17142857142, 25714285714, 34285714285, 42857142857, 51428571428}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, killTimes(test.run)); diff != "" {
			t.Errorf("%s: %s", test.run, diff)
		}
	}
}

func TestProcessStartIsInThePast(t *testing.T) {
	if age := time.Since(processStart()); age < 0 || age > 10*time.Minute {
		t.Errorf("process is %s old", age)
	}
}
