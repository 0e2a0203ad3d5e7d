package pipeline

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

const (
	topic   = "outbox.events"
	letters = "outbox.events.dlq"
)

// kafka is an in-process cluster with the two topics.
func kafka(t *testing.T) []kgo.Opt {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topic), kfake.SeedTopics(1, letters))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...), kgo.FetchMaxWait(50 * time.Millisecond)}
}

// publish writes events as the relay does, each batch in a transaction of its
// own; the last of them is rolled back.
func publish(t *testing.T, opts []kgo.Opt, batches ...[]*kgo.Record) {
	t.Helper()
	cl, err := kgo.NewClient(append(slices.Clone(opts), kgo.TransactionalID("relay"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i, batch := range append(batches, []*kgo.Record{fact("never", 0, "fail")}) {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), batch...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		how := kgo.TryCommit
		if i == len(batches) {
			how = kgo.TryAbort
		}
		if err := cl.EndTransaction(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
}

// fact is event n of a key; its type says what is to happen to it.
func fact(key string, n int, kind string) *kgo.Record {
	r := &kgo.Record{Topic: topic, Key: []byte(key), Value: fmt.Appendf(nil, `{"n":%d}`, n)}
	for _, h := range [][2]string{
		{"id", fmt.Sprintf("%s-%d", key, n)},
		{"type", kind},
		{"aggregatetype", "order"},
		{"aggregateid", key},
		{"content-type", "application/json"},
		{"outbox.lsn", fmt.Sprintf("0/%X", 1000+n)},
		{"outbox.seq", "1"},
		{"outbox.commit_ts", "2026-11-23T10:15:00.123456Z"},
		{"outbox.source", "shop/outbox_relay"},
		{"outbox.tli", "1"},
		{"outbox.ord", "1"},
		{"outbox.ckpt", "1"},
	} {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	return r
}

func member(opts []kgo.Opt) consumer.Config {
	return consumer.Config{
		Group: "g", Topics: []string{topic}, Client: opts, DeadLetterTopic: letters, Concurrency: 4, Attempts: 3,
		Backoff:        func(int) time.Duration { return 5 * time.Millisecond },
		CommitInterval: 20 * time.Millisecond, DrainTimeout: 5 * time.Second,
	}
}

// readLetters returns what is in the dead letter topic by id.
func readLetters(t *testing.T, opts []kgo.Opt, n int) map[string]dlq.Letter {
	t.Helper()
	cl, err := kgo.NewClient(append(slices.Clone(opts), kgo.ConsumeTopics(letters))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	all := map[string]dlq.Letter{}
	for len(all) < n {
		fetches := cl.PollFetches(t.Context())
		if t.Context().Err() != nil {
			t.Fatal("the letters did not come")
		}
		fetches.EachRecord(func(r *kgo.Record) {
			l, err := dlq.Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			all[l.ID()] = l
		})
	}
	return all
}

// book notes who was handed what, in order.
type book struct {
	mu   sync.Mutex
	seen map[string][]string
}

func (b *book) note(key, id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen == nil {
		b.seen = map[string][]string{}
	}
	b.seen[key] = append(b.seen[key], id)
	n := 0
	for _, s := range b.seen[key] {
		if s == id {
			n++
		}
	}
	return n
}

// In a cluster that never had a group the coordinator comes with the first
// question.
func TestFirstGroupOfACluster(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	asked := 0
	c.ControlKey(int16(kmsg.FindCoordinator), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if asked++; asked > 2 {
			return nil, nil, false
		}
		c.KeepControl()
		resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
		resp.ErrorCode = kerr.CoordinatorNotAvailable.Code
		for _, key := range req.(*kmsg.FindCoordinatorRequest).CoordinatorKeys {
			to := kmsg.NewFindCoordinatorResponseCoordinator()
			to.Key, to.ErrorCode = key, resp.ErrorCode
			resp.Coordinators = append(resp.Coordinators, to)
		}
		return resp, nil, true
	})
	e, err := findEnd(t.Context(), member([]kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}))
	if err != nil {
		t.Fatal(err)
	}
	e.close()
	if asked < 3 {
		t.Errorf("asked %d times", asked)
	}
}

// Events come to the webhook in the order of their keys; those that it refuses,
// or goes on failing for, end as letters; the run ends at the end.
func TestWebhookOfTheWholeTopic(t *testing.T) {
	t.Parallel()
	opts := kafka(t)
	var batch []*kgo.Record
	want := map[string][]string{}
	for n := range 20 {
		for _, key := range []string{"a", "b", "c"} {
			kind := "Created"
			id := fmt.Sprintf("%s-%d", key, n)
			switch {
			case key == "a" && n == 7:
				kind = "Bad"
			case key == "b" && n == 3:
				kind = "Down"
				want[key] = append(want[key], id, id) // three attempts in all
			case key == "c" && n == 5:
				kind = "Flaky"
				want[key] = append(want[key], id)
			}
			want[key] = append(want[key], id)
			batch = append(batch, fact(key, n, kind))
		}
	}
	publish(t, opts, batch[:20], batch[20:])
	var seen book
	s := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		attempt := seen.note(r.Header.Get("Outbox-Aggregate-Id"), r.Header.Get("Idempotency-Key"))
		if got := r.Header.Get("Outbox-Attempt"); got != fmt.Sprint(attempt) {
			t.Errorf("attempt %s, want %d", got, attempt)
		}
		switch kind := r.Header.Get("Outbox-Type"); {
		case kind == "Bad":
			w.WriteHeader(422)
		case kind == "Down", kind == "Flaky" && attempt == 1:
			w.WriteHeader(503)
		}
	})
	p := &Pipeline{Consumer: member(opts), Webhook: webhook(t, s.URL, nil), UntilEnd: true}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, seen.seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got := readLetters(t, opts, 2)
	if diff := cmp.Diff([]string{"a-7", "b-3"}, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Error(diff)
	}
	for id, l := range got {
		if l.Reason != dlq.Handler || l.Group != "g" || string(l.Value) == "" || strings.Contains(l.Message, "{") || !strings.Contains(l.Message, "OBX-222") {
			t.Errorf("%s: %+v", id, l)
		}
	}
	// All is done, so another run has nothing to do, and does not even join.
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, seen.seen); diff != "" {
		t.Errorf("the second run (-want +got):\n%s", diff)
	}
}

func TestChildOfTheWholeTopic(t *testing.T) {
	t.Parallel()
	opts := kafka(t)
	kinds := []string{"ok", "fail", "seq", "die", "flaky", "ok", "retry", "mumble:x", "ok"}
	var batch []*kgo.Record
	for n, kind := range kinds {
		for _, key := range []string{"a", "b"} {
			batch = append(batch, fact(key, n, kind))
		}
	}
	publish(t, opts, batch)
	log := newRecord()
	c, err := NewChild(ChildConfig{
		Command: []string{os.Args[0]}, Environ: append(os.Environ(), childVariable+"=plain"),
		Timeout: 10 * time.Second, MaxRetryAfter: time.Second, Window: 4, Grace: time.Second, Log: zerolog.New(log),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.backoff = func(int) time.Duration { return time.Millisecond }
	if err := (&Pipeline{Consumer: member(opts), Child: c, UntilEnd: true}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := readLetters(t, opts, 6)
	if diff := cmp.Diff([]string{"a-1", "a-3", "a-6", "b-1", "b-3", "b-6"}, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("letters (-want +got):\n%s", diff)
	}
}

// An empty topic ends at once, and so does one that is not there, with an error.
func TestUntilTheEndOfNothing(t *testing.T) {
	t.Parallel()
	opts := kafka(t)
	w := webhook(t, "http://127.0.0.1:1/", nil)
	if err := (&Pipeline{Consumer: member(opts), Webhook: w, UntilEnd: true}).Run(t.Context()); err != nil {
		t.Error(err)
	}
	publish(t, opts) // what was rolled back leaves markers behind
	if err := (&Pipeline{Consumer: member(opts), Webhook: w, UntilEnd: true}).Run(t.Context()); err != nil {
		t.Error(err)
	}
	cfg := member(opts)
	cfg.Topics = []string{"no.such.topic"}
	if err := (&Pipeline{Consumer: cfg, Webhook: w, UntilEnd: true}).Run(t.Context()); err == nil {
		t.Error("a topic that does not exist has no end")
	}
}

// Told to stop, a pipeline lets the request that is under way end, and what it
// did is committed: the next run does not begin with it again.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	opts := kafka(t)
	publish(t, opts, []*kgo.Record{fact("a", 0, "Created"), fact("a", 1, "Created")})
	called, release := make(chan string, 10), make(chan struct{})
	s := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		called <- r.Header.Get("Outbox-Id")
		<-release
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- (&Pipeline{Consumer: member(opts), Webhook: webhook(t, s.URL, nil)}).Run(ctx)
	}()
	if id := <-called; id != "a-0" {
		t.Errorf("%s came first", id)
	}
	stop()
	time.AfterFunc(50*time.Millisecond, func() { close(release) })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// Between the answer and the stop the second may or may not have gone out;
	// the first has been done.
	for len(called) > 0 {
		<-called
	}
	if err := (&Pipeline{Consumer: member(opts), Webhook: webhook(t, s.URL, nil), UntilEnd: true}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for len(called) > 0 {
		if id := <-called; id == "a-0" {
			t.Error("a-0 came again")
		}
	}
}

// The child stays until the consumer has drained, so an event that takes longer
// than a child's own stop is done all the same.
func TestStopDrainsTheChild(t *testing.T) {
	t.Parallel()
	opts := kafka(t)
	publish(t, opts, []*kgo.Record{fact("a", 0, "slow:500ms")})
	run := func(ctx context.Context, log *record, untilEnd bool) error {
		c, err := NewChild(ChildConfig{
			Command: []string{os.Args[0]}, Environ: append(os.Environ(), childVariable+"=plain"),
			Timeout: 10 * time.Second, Grace: 50 * time.Millisecond, Log: zerolog.New(log),
		})
		if err != nil {
			t.Fatal(err)
		}
		return (&Pipeline{Consumer: member(opts), Child: c, UntilEnd: untilEnd}).Run(ctx)
	}
	ctx, stop := context.WithCancel(t.Context())
	log, done := newRecord(), make(chan error, 1)
	go func() { done <- run(ctx, log, false) }()
	log.await(t, "begun")
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	log = newRecord()
	if err := run(t.Context(), log, true); err != nil || len(log.lines) > 0 {
		t.Errorf("%v, and it was not done: %v", err, log.lines)
	}
}

// A command that cannot run ends the pipeline, which would else wait for ever.
func TestChildThatCannotStartEndsTheRun(t *testing.T) {
	t.Parallel()
	file := t.TempDir() + "/handler"
	if err := os.WriteFile(file, []byte("\x7fELF nonsense"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := NewChild(ChildConfig{Command: []string{file}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Pipeline{Consumer: member(kafka(t)), Child: c}).Run(t.Context()); fault.CodeOf(err) != fault.ChildStart {
		t.Errorf("%v", err)
	}
}

func TestPipelineMistakes(t *testing.T) {
	t.Parallel()
	cfg := member([]kgo.Opt{kgo.SeedBrokers("127.0.0.1:1")})
	cfg.DeadLetterTopic = topic
	w, err := NewWebhook(WebhookConfig{URL: secret.New("http://h/"), Timeout: time.Second, Metrics: NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Pipeline{Consumer: cfg, Webhook: w}).Run(t.Context()); fault.CodeOf(err) != fault.ConfigInvalid {
		t.Errorf("%v", err)
	}
}

// The side view of a member turns with the answers of its coordinator.
func TestContact(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	c := NewContact()
	c.now = func() time.Time { return now }
	check := func(heard bool, err error) {
		t.Helper()
		if h, e := c.Ask(); h != heard || e != err {
			t.Errorf("%t %v, want %t %v", h, e, heard, err)
		}
	}
	check(false, nil)
	c.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, io.EOF)
	check(false, io.EOF)
	c.OnBrokerRead(kgo.BrokerMetadata{}, 3, 0, 0, 0, nil) // metadata
	check(false, io.EOF)
	c.OnBrokerRead(kgo.BrokerMetadata{}, 14, 0, 0, 0, nil)
	check(true, nil)
	c.OnGroupManageError(io.ErrUnexpectedEOF)
	check(true, nil)
	now = now.Add(contactAge)
	check(false, io.ErrUnexpectedEOF)
	c.OnBrokerRead(kgo.BrokerMetadata{}, 12, 0, 0, 0, nil)
	check(true, nil)
}
