package e2e

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/rig"
)

var pageFence = regexp.MustCompile("(?ms)^ *```([a-z]+)\n(.*?)^ *```$")

// reader is a person with a shell who does what a page says: with a Postgres
// and a Kafka of their own, because the names on the pages are the defaults.
type reader struct {
	kafka *harness.KafkaServer
	bin   string
	env   map[string]string
	relay *harness.Relay
}

func newReader(t *testing.T) *reader {
	t.Helper()
	rig.Real(t)
	r := &reader{kafka: harness.NewKafka(t, harness.KafkaConfig{}), bin: t.TempDir()}
	db := harness.NewPostgres(t, harness.PostgresConfig{}).NewDatabase(t)
	if err := os.Symlink(harness.BuildRelay(t), filepath.Join(r.bin, "outbox-relay")); err != nil {
		t.Fatal(err)
	}
	// The page kills by name, and there may be other relays on this machine.
	for name, script := range map[string]string{
		"pkill": `exec kill "$1" "$(cat "$(dirname "$0")/pid")"`,
		"pgrep": `exec kill -0 "$(cat "$(dirname "$0")/pid")" 2>/dev/null`,
	} {
		if err := os.WriteFile(filepath.Join(r.bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.env = map[string]string{
		"PATH": r.bin + ":" + harness.KafkaTools(t) + ":" + os.Getenv("PATH"), "HOME": t.TempDir(),
		"DATABASE_URL": db.URL(), "KAFKA_BROKERS": strings.Join(r.kafka.Brokers(), ","),
	}
	return r
}

// follows does what a page says, block by block, from one heading to another;
// "" is the beginning or the end. What is exported there is replaced by what the
// reader has.
func (r *reader) follows(ctx context.Context, t *testing.T, page, from, to string) (settings []string, printed map[string]string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	if _, after, found := strings.Cut(text, from); found {
		text = after
	} else {
		t.Fatalf("%s has no %q", page, from)
	}
	if to != "" {
		text, _, _ = strings.Cut(text, to)
	}
	printed = map[string]string{}
	for _, m := range pageFence.FindAllStringSubmatch(text, -1) {
		block := undent(m[2])
		switch {
		case m[1] == "sql":
			printed[block] = r.types(ctx, t, "psql -X -v ON_ERROR_STOP=1 \"$DATABASE_URL\" <<'SQL'\n"+block+"SQL\n")
		case m[1] != "sh" || strings.HasPrefix(block, "make "):
		case strings.HasPrefix(block, "export "):
			for line := range strings.Lines(block) {
				name, _, _ := strings.Cut(strings.TrimPrefix(line, "export "), "=")
				if r.env[name] == "" {
					t.Errorf("%s exports %s, and this test has no value for it", page, name)
				}
				settings = append(settings, name)
			}
		case strings.TrimSpace(block) == "outbox-relay serve":
			r.serves(t)
			printed[block] = ""
		default:
			printed[block] = r.types(ctx, t, block)
		}
	}
	return settings, printed
}

// undent takes a block out of the list item that it stands in.
func undent(block string) string {
	lines := strings.Split(block, "\n")
	indent := len(lines[0]) - len(strings.TrimLeft(lines[0], " "))
	for i, line := range lines {
		lines[i] = line[min(indent, len(line)):]
	}
	return strings.Join(lines, "\n")
}

// types runs a block of shell, whose every command has to succeed.
func (r *reader) types(ctx context.Context, t *testing.T, block string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, "bash", "-eu", "-o", "pipefail", "-c", block)
	for _, name := range slices.Sorted(maps.Keys(r.env)) {
		cmd.Env = append(cmd.Env, name+"="+r.env[name])
	}
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n--- printed:\n%s", err, block, out.String())
	}
	return out.String()
}

// serves starts the relay as in a second terminal.
func (r *reader) serves(t *testing.T) {
	t.Helper()
	env := maps.Clone(r.env)
	env["LOG_FORMAT"] = "json" // for the test to read
	r.relay = harness.StartRelay(t, filepath.Join(r.bin, "outbox-relay"), env)
	if err := os.WriteFile(filepath.Join(r.bin, "pid"), []byte(strconv.Itoa(r.relay.PID())), 0o644); err != nil {
		t.Fatal(err)
	}
	rig.AwaitStreaming(t, r.relay)
	// What asks the relay itself has to find this one.
	r.env["HEALTH_ADDR"] = strings.TrimPrefix(r.relay.HealthURL(), "http://")
}

// ids are the ids of the committed events in a topic.
func (r *reader) ids(ctx context.Context, t *testing.T, topic string, n int) []string {
	t.Helper()
	cl, err := r.kafka.Client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var ids []string
	for len(ids) < n {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatal(err)
		}
		for _, rec := range fs.Records() {
			for _, h := range rec.Headers {
				if h.Key == "id" {
					ids = append(ids, string(h.Value))
				}
			}
		}
	}
	return ids
}

// A newcomer with an empty database, a Kafka and the README: at most three
// commands and two settings to the first event in production.
func TestReadmeToTheFirstEvent(t *testing.T) {
	ctx := within(t, 90*time.Second)
	r := newReader(t)
	settings, printed := r.follows(ctx, t, "README.md", "\n## Three steps to production\n", "\n## What is promised\n")
	if len(settings) > 2 {
		t.Errorf("settings %v, more than two", settings)
	}
	var commands []string
	for block := range printed {
		for line := range strings.Lines(block) {
			if strings.HasPrefix(line, "outbox-relay ") {
				commands = append(commands, strings.TrimSpace(line))
			}
		}
	}
	slices.Sort(commands)
	if len(commands) > 3 {
		t.Errorf("commands %q, more than three", commands)
	}
	ids := r.ids(ctx, t, "outbox.events", 1)
	t.Logf("settings %v, commands %q, event %s", settings, commands, ids[0])
}

// The tutorial, from its first line to its last.
func TestTutorial(t *testing.T) {
	ctx := within(t, 4*time.Minute)
	r := newReader(t)
	_, printed := r.follows(ctx, t, "docs/tutorial.md", "# Tutorial", "")
	if len(printed) < 10 {
		t.Errorf("%d blocks were run", len(printed))
	}
	saw := func(text string) {
		t.Helper()
		if !slices.ContainsFunc(slices.Collect(maps.Values(printed)), func(out string) bool { return strings.Contains(out, text) }) {
			t.Errorf("nothing printed %q", text)
		}
	}
	saw(`{"total": "12.50"}`)
	saw("invalid_topic")
	select {
	case <-r.relay.Done():
	case <-ctx.Done():
		t.Error("the relay was not stopped")
	}
}
