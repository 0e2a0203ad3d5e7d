package e2e

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

// What is wrong with the settings is said at once and completely, before any
// server is asked.
func TestSettingsMisfits(t *testing.T) {
	rig.Real(t)
	bin := harness.BuildRelay(t)
	sound := map[string]string{
		"DATABASE_URL": "postgres://relay:" + planted + "@127.0.0.1:1/app", "KAFKA_BROKERS": "127.0.0.1:1",
		"KAFKA_SASL_MECHANISM": "plain", "KAFKA_SASL_USERNAME": "relay", "KAFKA_SASL_PASSWORD": planted,
	}
	for _, tc := range []struct {
		name  string
		env   map[string]string
		args  []string
		codes []string
		words []string
	}{
		{"two values", map[string]string{"KAFKA_COMPRESSION": "zip", "OUTBOX_BATCH_SIZE": "abc"}, nil, []string{"OBX-1001", "OBX-1001"}, []string{"KAFKA_COMPRESSION", "zstd", "OUTBOX_BATCH_SIZE", "whole number"}},
		{"values that exclude each other", map[string]string{"OUTBOX_BATCH_SIZE": "100", "OUTBOX_BATCH_MAX": "10"}, nil, []string{"OBX-1001"}, []string{"OUTBOX_BATCH_MAX is 10"}},
		{"brokers without a port", map[string]string{"KAFKA_BROKERS": "kafka-1,kafka-2:9092"}, nil, []string{"OBX-1010"}, []string{"entry 1", "kafka-1", "no port"}},
		{"two bad brokers", map[string]string{"KAFKA_BROKERS": "kafka:99999,http://kafka:9092"}, nil, []string{"OBX-1010", "OBX-1010"}, []string{"out of range", "scheme"}},
		{"brokers with a password", map[string]string{"KAFKA_BROKERS": "relay:" + planted + "@kafka:9092"}, nil, []string{"OBX-1010"}, []string{"not shown"}},
		{"no brokers", map[string]string{"KAFKA_BROKERS": ""}, nil, []string{"OBX-1003"}, []string{"KAFKA_BROKERS"}},
		{"database URL", map[string]string{"DATABASE_URL": "postgres://relay:" + planted + "@db:port/app"}, nil, []string{"OBX-1011"}, []string{"DATABASE_URL"}},
		{"no database and a bad mechanism", map[string]string{"DATABASE_URL": "", "KAFKA_SASL_MECHANISM": "kerberos"}, nil, []string{"OBX-1003", "OBX-1001"}, []string{"DATABASE_URL", "scram-sha-512"}},
		{"illegal topic", map[string]string{"KAFKA_EVENTS_TOPIC": "no spaces"}, nil, []string{"OBX-1001"}, []string{"KAFKA_EVENTS_TOPIC"}},
		{"unknown flag", nil, []string{"--frobnicate"}, []string{"OBX-1004"}, []string{"frobnicate"}},
		{"gap without numbers", nil, []string{"--accept-gap", "all"}, []string{"OBX-1001"}, []string{"--accept-gap"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := maps.Clone(sound)
			maps.Copy(env, tc.env)
			out := harness.RunRelay(t, bin, env, append([]string{"serve"}, tc.args...)...)
			judge(t, out, 2, tc.codes...)
			for _, word := range tc.words {
				if !strings.Contains(out.Stderr, word) {
					t.Errorf("%q is not said: %s", word, out.Stderr)
				}
			}
		})
	}
}

// A variable with a typing error in its name changes nothing but is pointed
// out, and no way of showing the settings shows the secrets among them.
func TestSettingsAreShownWithoutSecrets(t *testing.T) {
	rig.Real(t)
	bin := harness.BuildRelay(t)
	env := map[string]string{
		"DATABASE_URL": "postgres://relay:" + planted + "@127.0.0.1:1/app", "OUTBOX_ADMIN_URL": "host=127.0.0.1 password=" + planted,
		"KAFKA_BROKERS": "127.0.0.1:1", "KAFKA_SASL_MECHANISM": "plain", "KAFKA_SASL_USERNAME": "relay", "KAFKA_SASL_PASSWORD": planted,
		"KAFKA_COMPRESION": "lz4",
	}
	for _, args := range [][]string{{"config", "show"}, {"config", "show", "-o", "json"}, {"init", "--dry-run"}, {"init", "--dry-run", "-o", "json"}} {
		out := harness.RunRelay(t, bin, env, args...)
		harmless(t, out.Stdout, out.Stderr)
		if out.ExitCode != 0 || out.Stdout == "" {
			t.Errorf("%v: exit %d\n%s", args, out.ExitCode, out.Stderr)
		}
		if args[0] == "config" && !strings.Contains(out.Stdout+out.Stderr, "KAFKA_COMPRESSION") {
			t.Errorf("%v: the nearest name is not said", args)
		}
	}
}

// With KAFKA_ENABLED=false the relay is there and ready, and holds no slot: one
// that nobody reads would fill the server's disk.
func TestKafkaDisabled(t *testing.T) {
	ctx := within(t, 30*time.Second)
	r := rig.New(t, rig.Config{Partitions: 1})
	plant(t, r)
	r.Init(t)
	relay := r.Serve(t, map[string]string{"KAFKA_ENABLED": "false", "KAFKA_BROKERS": ""})
	if _, err := relay.WaitLog(ctx, rig.Message("outbox-relay starts")); err != nil {
		t.Fatal(err)
	}
	r.Insert(t, 3)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, body := rig.Ready(ctx, relay)
		if status == 200 && body["state"] == "disabled" {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("/readyz answers %d %v", status, body)
		}
	}
	if pid := holder(ctx, t, r); pid != 0 {
		t.Errorf("the slot is held by PID %d", pid)
	}
	harmless(t, answers(ctx, t, relay), relay.Stderr())
	stop(ctx, t, relay)
	// What was written meanwhile is not lost.
	relay = r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	r.AwaitCaughtUp(ctx, t)
	everyRowOnce(ctx, t, r, r.Events)
}
