// Package rig is one relay under test: its database, its topics, its settings
// and the replicas that run on them.
//
// It puts harness (servers), load (writers) and verify (the judge) together, so
// that a test says only what goes wrong and what must hold afterwards. It
// leaves to the tests which faults to plant.
package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/test/harness"
)

// Config says on what the relay runs.
type Config struct {
	Postgres *harness.PostgresServer // nil: the shared one
	Kafka    *harness.KafkaServer    // nil: the shared one
	// Standbys of Postgres, which DATABASE_URL names too.
	Standbys []*harness.PostgresServer
	// Brokers replaces the broker's own addresses, for a proxy in front.
	Brokers []string
	// Partitions of the events topic; 0: 3.
	Partitions int32
	// EventSettings are those of the events topic.
	EventSettings map[string]string
	// Env is added to the settings of every command.
	Env map[string]string
	// Bin is the binary; "" builds the ordinary one.
	Bin string
}

// Rig is one relay with everything that belongs to it.
type Rig struct {
	Postgres *harness.PostgresServer
	Kafka    *harness.KafkaServer
	Database *harness.Database
	Topics   *harness.TopicSpace

	Name, Slot, Publication     string
	Events, Letters, Checkpoint string
	State                       string // what became of letters
	Env                         map[string]string
	Bin                         string
}

// Real skips the test unless the tier of real servers was asked for: those
// tests take minutes, and a plain `go test ./...` is to be quick.
func Real(t testing.TB) {
	t.Helper()
	if os.Getenv("OUTBOX_TEST_REAL") == "" {
		t.Skip("OUTBOX_TEST_REAL is not set: run `make real`")
	}
}

// New makes an empty database and a set of names; nothing is initialised yet.
func New(t testing.TB, cfg Config) *Rig {
	t.Helper()
	Real(t)
	r := &Rig{Postgres: cfg.Postgres, Kafka: cfg.Kafka, Bin: cfg.Bin}
	if r.Postgres == nil {
		r.Postgres = harness.Postgres(t)
	}
	if r.Kafka == nil {
		r.Kafka = harness.Kafka(t)
	}
	if r.Bin == "" {
		r.Bin = harness.BuildRelay(t)
	}
	r.Database = r.Postgres.NewDatabase(t)
	r.Database.Also(cfg.Standbys...)
	r.Topics = r.Kafka.NewTopics(t)
	r.Name = strings.Trim(r.Topics.Prefix, ".-_")
	r.Slot, r.Publication = r.Database.Slot("relay"), "outbox_pub"
	r.Events, r.Letters, r.Checkpoint = r.Topics.Name("events"), r.Topics.Name("dlq"), r.Topics.Name("checkpoint")
	r.State = r.Letters + ".state"
	partitions := cfg.Partitions
	if partitions == 0 {
		partitions = 3
	}
	r.Topics.Create(t, "events", partitions, cfg.EventSettings)
	brokers := cfg.Brokers
	if brokers == nil {
		brokers = r.Kafka.Brokers()
	}
	r.Env = map[string]string{
		"DATABASE_URL": r.Database.URL(), "KAFKA_BROKERS": strings.Join(brokers, ","),
		"OUTBOX_NAME": r.Name, "OUTBOX_SLOT": r.Slot, "OUTBOX_PUBLICATION": r.Publication,
		"KAFKA_EVENTS_TOPIC": r.Events, "KAFKA_DLQ_TOPIC": r.Letters, "KAFKA_CHECKPOINT_TOPIC": r.Checkpoint,
		"OUTBOX_HEARTBEAT_INTERVAL": "1s", "LOG_FORMAT": "json",
		"KAFKA_BREAKER_RESET": "2s", // or a broker that was away costs a test five minutes
	}
	maps.Copy(r.Env, cfg.Env)
	return r
}

// Sibling is another relay on the same database, table and publication, with
// names and topics of its own.
func (r *Rig) Sibling(t testing.TB, name string) *Rig {
	t.Helper()
	s := *r
	s.Name, s.Slot = r.Name+"_"+name, r.Database.Slot(name)
	s.Events, s.Letters, s.Checkpoint = r.Topics.Name(name+".events"), r.Topics.Name(name+".dlq"), r.Topics.Name(name+".checkpoint")
	s.State = s.Letters + ".state"
	r.Topics.Create(t, name+".events", 1, nil)
	s.Env = maps.Clone(r.Env)
	maps.Copy(s.Env, map[string]string{
		"OUTBOX_NAME": s.Name, "OUTBOX_SLOT": s.Slot,
		"KAFKA_EVENTS_TOPIC": s.Events, "KAFKA_DLQ_TOPIC": s.Letters, "KAFKA_CHECKPOINT_TOPIC": s.Checkpoint,
	})
	return &s
}

// Init runs `outbox-relay init`, which has to succeed.
func (r *Rig) Init(t testing.TB) {
	t.Helper()
	if out := r.Command(t, "init"); out.ExitCode != 0 {
		t.Fatalf("init: exit %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
}

// Command runs a command of the relay to its end.
func (r *Rig) Command(t testing.TB, args ...string) harness.Output {
	t.Helper()
	return harness.RunRelay(t, r.Bin, r.Env, args...)
}

// Serve starts a replica; env is added to the rig's.
func (r *Rig) Serve(t testing.TB, env map[string]string, args ...string) *harness.Relay {
	t.Helper()
	all := maps.Clone(r.Env)
	maps.Copy(all, env)
	return harness.StartRelay(t, r.Bin, all, args...)
}

// Conn is a connection to the rig's database.
func (r *Rig) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	return r.Database.Connect(t)
}

// Insert writes n rows in one transaction, with keys k0..k9.
func (r *Rig) Insert(t testing.TB, n int) {
	t.Helper()
	r.Database.Exec(t, fmt.Sprintf(`INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
	    SELECT 'order', 'k' || (i %% 10), 'Created', jsonb_build_object('i', i) FROM generate_series(1, %d) i`, n))
}

// Slot state as SQL shows it; zero LSNs if the slot does not exist.
func (r *Rig) Confirmed(ctx context.Context, t testing.TB) (confirmed, current pglogrepl.LSN) {
	t.Helper()
	conn := r.Conn(t)
	var c, w string
	err := conn.QueryRow(ctx, `SELECT confirmed_flush_lsn::text, pg_current_wal_lsn()::text FROM pg_replication_slots WHERE slot_name = $1`, r.Slot).Scan(&c, &w)
	if err != nil {
		t.Fatal(err)
	}
	confirmed, err = pglogrepl.ParseLSN(c)
	if err != nil {
		t.Fatal(err)
	}
	if current, err = pglogrepl.ParseLSN(w); err != nil {
		t.Fatal(err)
	}
	return confirmed, current
}

// Peek reads the relay's checkpoint without disturbing it.
func (r *Rig) Peek(ctx context.Context, t testing.TB) checkpoint.State {
	t.Helper()
	log := checkpoint.Log{Topic: r.Checkpoint, Name: r.Name, Opts: []kgo.Opt{kgo.SeedBrokers(r.Kafka.Direct()...)}}
	st, err := log.Peek(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// AwaitCaughtUp returns when the checkpoint has reached everything that was
// committed before the call. The checkpoint topic is the signal: it is read
// until a position past the WAL's present end is seen.
func (r *Rig) AwaitCaughtUp(ctx context.Context, t testing.TB) {
	t.Helper()
	_, target := r.Confirmed(ctx, t)
	// WAL that no transaction follows may end in mid-page; the heartbeat
	// passes it, because the relay's settings here ask for one each second.
	cl, err := r.Kafka.Client(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.Checkpoint: {0: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for {
		fs := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("waiting for a checkpoint at %s: %v; last is %+v", target, context.Cause(ctx), r.Peek(context.Background(), t).Last)
		}
		for _, rec := range fs.Records() {
			if kind, name := checkpoint.KindOf(rec.Key); kind != checkpoint.Lane || name != r.Name {
				continue
			}
			if ck, err := checkpoint.Decode(rec); err == nil && ck.Pos.EndLSN >= target && !ck.Pos.Cut() {
				return
			}
		}
	}
}

// Count returns the committed records of a topic.
func (r *Rig) Count(ctx context.Context, t testing.TB, topic string) int {
	t.Helper()
	n := 0
	r.Each(ctx, t, topic, func(*kgo.Record) { n++ })
	return n
}

// Configure changes settings of a topic.
func (r *Rig) Configure(ctx context.Context, t testing.TB, topic string, settings map[string]string) {
	t.Helper()
	cl, err := r.Kafka.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var changes []kadm.AlterConfig
	for name, value := range settings {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: &value})
	}
	answers, err := kadm.NewClient(cl).AlterTopicConfigs(ctx, changes, topic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := answers.On(topic, func(a *kadm.AlterConfigsResponse) error { return a.Err }); err != nil {
		t.Fatalf("configure %s: %v", topic, err)
	}
}

// Reasons counts the committed letters by their reason.
func (r *Rig) Reasons(ctx context.Context, t testing.TB) map[string]int {
	t.Helper()
	all := map[string]int{}
	r.Each(ctx, t, r.Letters, func(rec *kgo.Record) {
		for _, h := range rec.Headers {
			if h.Key == "outbox.dlq.reason" {
				all[string(h.Value)]++
			}
		}
	})
	return all
}

// Each calls f with every committed record of a topic, by partition in offset
// order.
func (r *Rig) Each(ctx context.Context, t testing.TB, topic string, f func(*kgo.Record)) {
	t.Helper()
	cl, err := r.Kafka.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	left := map[int32]int64{}
	from := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil && o.Offset > 0 {
			left[o.Partition], from[o.Partition] = o.Offset, kgo.NewOffset().AtStart()
		}
	})
	if len(left) == 0 {
		return
	}
	reader, err := r.Kafka.Client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for len(left) > 0 {
		fs := reader.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatal(err)
		}
		for _, rec := range fs.Records() {
			if !rec.Attrs.IsControl() {
				f(rec)
			}
			if rec.Offset >= left[rec.Partition]-1 {
				delete(left, rec.Partition)
			}
		}
	}
}

// Ready asks /readyz and returns its status and body.
func Ready(ctx context.Context, relay *harness.Relay) (int, map[string]any) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, relay.HealthURL()+"/readyz", nil)
	if err != nil {
		return 0, nil
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	var m map[string]any
	_ = json.Unmarshal(body, &m)
	return resp.StatusCode, m
}

// Message matches a log line by its text.
func Message(text string) func(map[string]any) bool {
	return func(m map[string]any) bool { return m["msg"] == text }
}

// Code matches a log line that carries the code.
func Code(id string) func(map[string]any) bool {
	return func(m map[string]any) bool { return m["code"] == id }
}

// AwaitStreaming returns when the replica streams.
func AwaitStreaming(t testing.TB, relay *harness.Relay) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := relay.WaitLog(ctx, Message("streaming")); err != nil {
		t.Fatalf("not streaming: %v", err)
	}
}

// AwaitHalt returns when the replica has halted with the code: in its log, on
// /readyz with 503, and in its exit status once it is stopped.
func AwaitHalt(t testing.TB, relay *harness.Relay, code string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	line, err := relay.WaitLog(ctx, Message("halted"))
	if err != nil {
		t.Fatalf("no halt: %v", err)
	}
	if line["code"] != code {
		t.Fatalf("halted with %v, want %s: %v", line["code"], code, line["error"])
	}
	if line["why"] == "" || line["hint"] == "" {
		t.Errorf("halt without why or hint: %v", line)
	}
	status, body := Ready(ctx, relay)
	if status != http.StatusServiceUnavailable || body["code"] != code {
		t.Errorf("/readyz answers %d %v, want 503 with %s", status, body, code)
	}
	if err := relay.Term(); err != nil {
		t.Fatal(err)
	}
	if exit, err := relay.Wait(ctx); err != nil || exit != 6 {
		t.Errorf("exit status %d (%v), want 6", exit, err)
	}
}
