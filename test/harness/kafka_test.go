package harness

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// One broker behind a frame proxy: formatted as the product wants it, reached
// through the proxy, killed and started, frozen and thawed.
func TestKafkaLife(t *testing.T) {
	t.Parallel()
	k, p := NewProxiedKafka(t, KafkaConfig{Properties: map[string]string{"num.io.threads": "3"}})
	ctx := within(t, 120*time.Second)
	if err := k.Start(ctx); err == nil {
		t.Fatal("started twice")
	}
	checkFeatures(t, ctx, k)
	topics := k.NewTopics(t)
	events := topics.Create(t, "events", 2, map[string]string{"cleanup.policy": "compact"})

	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers()...), kgo.TransactionalID("t"), kgo.DefaultProduceTopic(events),
		kgo.ConsumeTopics(events), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.FetchMaxWait(200*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }))
	mustBeNil(t, err)
	defer cl.Close()
	commit := func(value string) {
		t.Helper()
		mustBeNil(t, cl.BeginTransaction())
		mustBeNil(t, cl.ProduceSync(ctx, &kgo.Record{Key: []byte("k"), Value: []byte(value)}).FirstErr())
		mustBeNil(t, cl.EndTransaction(ctx, kgo.TryCommit))
	}
	read := func(want string) {
		t.Helper()
		for {
			fetched := cl.PollFetches(ctx)
			if err := ctx.Err(); err != nil {
				t.Fatalf("wait for %q: %v", want, err)
			}
			if records := fetched.Records(); len(records) > 0 {
				if got := string(records[0].Value); got != want || len(records) != 1 {
					t.Fatalf("read %d records, the first %q; want %q", len(records), got, want)
				}
				return
			}
		}
	}
	commit("one")
	read("one")
	if p.Requests(kmsg.Produce) == 0 || p.Requests(kmsg.EndTxn) == 0 || p.Requests(kmsg.Fetch) == 0 {
		t.Errorf("past the proxy: %v", p.Counts())
	}

	mustBeNil(t, k.Kill())
	if err := ping(within(t, 5*time.Second), k); err == nil {
		t.Fatal("a killed broker answers")
	}
	mustBeNil(t, k.Start(ctx))
	commit("two") // on the port and with the data it had
	read("two")

	mustBeNil(t, k.Pause())
	if err := ping(within(t, 200*time.Millisecond), k); err == nil {
		t.Fatal("a frozen broker answers")
	}
	mustBeNil(t, k.Resume())
	mustBeNil(t, ping(ctx, k))

	mustBeNil(t, k.Stop(ctx))
	mustBeNil(t, k.Start(ctx))
	commit("three")
	read("three")
	if log := k.Log(100_000); !strings.Contains(log, "num.io.threads = 3") {
		t.Error("the property did not arrive, or the log is not there")
	}
}

func ping(ctx context.Context, k *KafkaServer) error {
	// Opening a connection includes a request that obeys this and no context.
	cl, err := k.Client(kgo.RequestRetries(0), kgo.RequestTimeoutOverhead(500*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	return cl.Ping(ctx)
}

// The full guarantee needs version 2 of the transaction protocol, and a test
// of it on less would prove nothing.
func checkFeatures(t *testing.T, ctx context.Context, k *KafkaServer) {
	t.Helper()
	cl, err := k.Client()
	mustBeNil(t, err)
	defer cl.Close()
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "harness", "1"
	versions, err := req.RequestWith(ctx, cl)
	mustBeNil(t, err)
	levels := map[string]int16{}
	for _, f := range versions.FinalizedFeatures {
		levels[f.Name] = f.MaxVersionLevel
	}
	if levels["transaction.version"] != 2 {
		t.Errorf("features %v", levels)
	}
}

func TestTopicsAreDeleted(t *testing.T) {
	t.Parallel()
	k := Kafka(t)
	deadline := within(t, 30*time.Second)
	cl, err := k.Client()
	mustBeNil(t, err)
	adm := kadm.NewClient(cl)
	defer adm.Close()
	var names []string
	t.Run("inner", func(t *testing.T) {
		for range 2 {
			s := Topics(t)
			names = append(names, s.Create(t, "events", 1, nil), s.Name("by-someone-else"))
			_, err := adm.CreateTopic(t.Context(), 1, 1, nil, s.Name("by-someone-else"))
			mustBeNil(t, err)
		}
		all, err := adm.ListTopics(t.Context())
		mustBeNil(t, err)
		for _, name := range names {
			if !all.Has(name) {
				t.Errorf("%s is not there", name)
			}
		}
	})
	// The controller answers before the broker has heard of it.
	for left := names; len(left) > 0; {
		meta, err := kmsg.NewPtrMetadataRequest().RequestWith(within(t, 10*time.Second), cl) // kadm's would come from a cache
		mustBeNil(t, err)
		left = slices.DeleteFunc(left, func(name string) bool {
			return !slices.ContainsFunc(meta.Topics, func(topic kmsg.MetadataResponseTopic) bool { return *topic.Topic == name })
		})
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline.Done():
			t.Fatalf("left: %v", left)
		}
	}
	// Nobody creates a topic by accident.
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "typing.error"}).FirstErr(); err == nil {
		t.Error("a topic came into being by itself")
	}
}

func TestGivenKafkaIsNotOurs(t *testing.T) {
	t.Parallel()
	k := &KafkaServer{brokers: []string{"a:1"}, direct: []string{"a:1"}}
	for name, f := range map[string]func() error{
		"Start": func() error { return k.Start(t.Context()) }, "Kill": k.Kill, "Pause": k.Pause, "Resume": k.Resume,
		"Stop": func() error { return k.Stop(t.Context()) },
	} {
		if err := f(); !errors.Is(err, errNotOurs) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	mustBeNil(t, k.Close())
}

// A broker that cannot start says why, at once, and leaves nothing.
func TestKafkaStartFails(t *testing.T) {
	t.Parallel()
	Kafka(t) // skips without Java
	began := time.Now()
	_, err := StartKafka(within(t, 60*time.Second), KafkaConfig{Properties: map[string]string{"num.io.threads": "many"}})
	if err == nil || !strings.Contains(err.Error(), "num.io.threads") {
		t.Fatalf("got %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("after %v", took)
	}
}
