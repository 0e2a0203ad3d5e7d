package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/relay"
)

// letterBroker is a broker with letters: three of one aggregate, one of another
// that is parked.
func letterBroker(t *testing.T, spoil ...func(*dlq.Letter)) (environ []string) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "outbox.events", "repair"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, top := range dlq.Topics("outbox.events.dlq", 1<<20) {
		configs := map[string]*string{}
		for k, v := range top.Configs {
			configs[k] = kadm.StringPtr(v)
		}
		if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), top.Partitions, 1, configs, top.Name); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, l := range []struct {
		id, key, topic string
		reason         dlq.Reason
	}{
		{"e1", "4711", "outbox.events", dlq.TooLarge},
		{"e2", "4711", "a b", dlq.InvalidTopic},
		{"e3", "4711", "outbox.events", dlq.TooLarge},
		{"e4", "4712", "outbox.events", dlq.Parked},
	} {
		letter := dlq.Letter{
			Key: []byte(l.key), Value: []byte(`{"secret": "` + l.id + `"}`), Topic: l.topic, Timestamp: at,
			Headers: []kgo.RecordHeader{
				{Key: "id", Value: []byte(l.id)},
				{Key: "type", Value: []byte("placed")},
				{Key: "aggregatetype", Value: []byte("order")},
				{Key: "aggregateid", Value: []byte(l.key)},
			},
			Reason: l.reason, Stage: dlq.StageOf(l.reason), Component: "sink", Code: "OBX-2002", Message: "1 byte too many",
			Attempts: 1, FirstAt: at, At: at, Relay: "outbox", RelayVersion: "v0",
		}
		for _, f := range spoil {
			f(&letter)
		}
		if err := cl.ProduceSync(t.Context(), letter.Record("outbox.events.dlq", 0)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"KAFKA_BROKERS=" + strings.Join(c.ListenAddrs(), ","), "USER=ops", "LOG_LEVEL=error"}
}

func ids(t *testing.T, ndjson string) (all []string) {
	t.Helper()
	for dec := json.NewDecoder(strings.NewReader(ndjson)); dec.More(); {
		var v struct{ ID string }
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v.ID)
	}
	return all
}

func TestDLQ(t *testing.T) {
	env := letterBroker(t)
	for _, c := range []struct {
		args   string
		status int
		has    string // of standard output and error
		not    string
	}{
		{"dlq list", 0, "e1  order:4711  placed  too_large", "secret"},
		{"dlq list --reason too_large --max 1", 0, "there are more than 1", "e3"},
		{"dlq list --aggregate order:4712", 0, "e4", "e1"},
		{"dlq list --aggregate 4712 --code OBX-1", 0, "no dead letter matches", "e4"},
		{"dlq list --since 2026-01-03", 0, "no dead letter matches", "e4"},
		{"dlq list --until 2026-01-03 --id e2", 0, "e2", "e1"},
		{"dlq list --since soon", 2, "OBX-1004", ""},
		{"dlq list --since=-2h", 2, "OBX-1004", ""},
		{"dlq list --since 2h --until 3h", 2, "is not after", ""},
		{"dlq list --max=-1", 2, "--max is -1", ""},
		{"dlq replay --max=-1", 2, "--max is -1", ""},
		{"dlq list --reason big", 2, "too_large", ""},
		{"dlq list --reason too-large --code obx-2002,2002", 0, "e1", "e2"},
		{"dlq list --group billing", 0, "no dead letter matches", ""},
		{"dlq list --group -", 0, "e1", ""},
		{"dlq show e1", 0, "16 bytes; --payload shows both", "secret"},
		{"dlq show e1 --payload", 0, `"secret": "e1"`, ""},
		{"dlq show nobody", 2, "OBX-2100", ""},
		{"dlq export", 0, `"payload_bytes":16`, "secret"},
		{"dlq export e1 --with-payload", 0, `"payload_base64"`, ""},
		{"dlq replay --dry-run", 0, "2 of 3 letters would be replayed, 1 would stay open", ""},
		{"dlq replay --dry-run --max 1", 0, "1 of 3 letters would be replayed, 0 would stay open", ""},
		{"dlq replay --dry-run --to repair e1", 0, "repair", "outbox.events"},
		{"dlq purge --dry-run", 0, "3 of 3 letters would be purged", ""},
		{"dlq replay --to a/b", 2, "OBX-1004", ""},
		{"dlq replay --to __consumer_offsets", 2, "OBX-1004", ""},
		{"dlq replay --to outbox.events.dlq", 2, "OBX-1004", ""},
		{"dlq replay nobody", 2, "OBX-2100", ""},
		{"dlq replay --id nobody", 2, "OBX-2100", ""},
		{"dlq replay --dry-run e1 nobody", 0, "no open letter of event nobody", "event e1"},
		{"dlq replay e1 --from-table", 2, "OBX-1003", ""},
		{"dlq replay e4", 0, "1 parked letters are left to the relay", ""},
		{"dlq replay e4", 0, "OBX-2106 fix: replay or purge the letter that blocks the key", ""},
		{"dlq purge", 2, "OBX-2110", ""},
		{"dlq replay --to repair", 2, "OBX-2110", ""},
		{"dlq replay", 4, "2 of 3 letters replayed, 1 refused", ""},
		{"dlq replay", 4, "OBX-2003", ""},
		{"dlq list --state replayed", 0, "e3", "e2"},
		{"dlq replay e2 --to repair -o json", 0, `"done": 1`, ""},
		{"dlq show e2", 0, "replayed at", ""},
		{"dlq purge --yes --because obsolete", 0, "0 of 0 letters purged", ""},
		{"dlq retry", 0, "replayed 0, deferred 0, left to a person 0, refused 0; waiting 0", ""},
		{"dlq retry --tick 1ms", 2, "OBX-1004", ""},
	} {
		status, out, errs := try(t, env, strings.Fields(c.args)...)
		if all := out + errs; status != c.status || !strings.Contains(all, c.has) || c.not != "" && strings.Contains(all, c.not) {
			t.Errorf("%s: status %d\n%s\n%s", c.args, status, out, errs)
		}
	}
}

// A record that is no letter is told about, and hides none.
func TestDLQForeignRecord(t *testing.T) {
	env := letterBroker(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(strings.TrimPrefix(env[0], "KAFKA_BROKERS="), ",")...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "outbox.events.dlq", Value: []byte("secret")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	status, out, errs := try(t, env, "dlq", "list", "-o", "json")
	if status != 0 || len(ids(t, out)) != 4 || !strings.Contains(errs, "OBX-2107") || strings.Contains(errs, "secret") {
		t.Errorf("status %d\n%s\n%s", status, out, errs)
	}
}

// In serve only the replica that leads replays what is due.
func TestRetryWhileLeading(t *testing.T) {
	env := letterBroker(t, func(l *dlq.Letter) { l.NextAt = l.At })
	cfg := config.Default()
	cfg.Kafka.Client.Brokers = strings.Split(strings.TrimPrefix(env[0], "KAFKA_BROKERS="), ",")
	p := newParts(cfg, zerolog.Nop())
	d, err := newLetterDesk(p, "test")
	if err != nil {
		t.Fatal(err)
	}
	s := &service{parts: p, state: health.NewState(), now: relay.Standby}
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if err := s.retryLetters(ctx, d); err != nil {
		t.Fatal(err)
	}
	if _, out, _ := try(t, env, "dlq", "list", "-o", "json"); len(ids(t, out)) != 4 {
		t.Errorf("a standby has replayed: open are %v", ids(t, out))
	}
	s.now = relay.Streaming
	ctx, stop = context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.retryLetters(ctx, d) }()
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, out, _ := try(t, env, "dlq", "list", "--state", "replayed", "-o", "json")
		if len(ids(t, out)) == 2 { // parked ones are the relay's, and one names no topic
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("replayed are %v", ids(t, out))
			break
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// An export holds the very bytes, and nobody else may read it.
func TestDLQExportFile(t *testing.T) {
	env := letterBroker(t)
	file := filepath.Join(t.TempDir(), "letters.ndjson")
	if status, _, errs := try(t, env, "dlq", "export", "--with-payload", "--file", file); status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := ids(t, string(text)); len(got) != 4 {
		t.Errorf("exported are %v", got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	var v struct {
		PayloadBase64 []byte `json:"payload_base64"`
		Key           string
	}
	if err := json.NewDecoder(strings.NewReader(string(text))).Decode(&v); err != nil || string(v.PayloadBase64) != `{"secret": "e1"}` || v.Key != "4711" {
		t.Errorf("%+v, %v", v, err)
	}
	if status, _, errs := try(t, env, "dlq", "export", "--file", file); status != 2 || !strings.Contains(errs, "OBX-1004") {
		t.Errorf("status %d: %s", status, errs)
	}
}

// Text of a row that would drive a terminal is shown as text.
func TestCell(t *testing.T) {
	for in, want := range map[string]string{"": "-", "a\x1b[2J\n": "a?[2J?", "\xff": "?", "\u009b": "?", "äöüßÄÖÜ": "äöüßÄ…"} {
		if got := cell(in, 6); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
