package preflight_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/preflight"
)

func TestSoundClusterHasNoTroubles(t *testing.T) {
	t.Parallel()
	r := newWorld(t, sound(), nil).run(t)
	if got := troubles(r); len(got) > 0 || !r.Reached || r.Failed() {
		t.Errorf("%v\n%s", got, text(r))
	}
	ran := map[string]int{}
	for _, s := range r.Results {
		if s.Status == preflight.Pass {
			ran[s.Step]++
		}
	}
	want := map[string]int{
		"resolve": 3, "connect": 3, "api": 3, "metadata": 1, "advertised": 3, "topic": 4, "rights": 5, "transaction-timeout": 1, "probe": 1,
	}
	if diff := cmp.Diff(want, ran); diff != "" {
		t.Errorf("steps that passed (-want +got):\n%s", diff)
	}
}

// Each wrong setting of a topic is found, by its code, and nothing else is.
func TestTopics(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		topic, key, value string
		partitions        map[string]int
		want              []string
	}{
		"checkpoint is deleted by age":        {topic: "ckpt", key: "cleanup.policy", value: "delete", want: []string{"fail topic OBX-5006"}},
		"checkpoint is deleted by age too":    {topic: "ckpt", key: "cleanup.policy", value: "compact,delete", want: []string{"fail topic OBX-5006"}},
		"checkpoint has two partitions":       {partitions: map[string]int{"ckpt": 2}, want: []string{"fail topic OBX-5006"}},
		"state is deleted by age":             {topic: "dlq.state", key: "cleanup.policy", value: "delete", want: []string{"fail topic OBX-5103"}},
		"letters are compacted":               {topic: "dlq", key: "cleanup.policy", value: "compact", want: []string{"fail topic OBX-5103"}},
		"letters expire":                      {topic: "dlq", key: "retention.ms", value: "604800000", want: []string{"warn topic OBX-5103"}},
		"letters are smaller than events":     {topic: "dlq", key: "max.message.bytes", value: "1000", want: []string{"warn topic OBX-5103"}},
		"events are compacted":                {topic: "events", key: "cleanup.policy", value: "compact", want: []string{"warn topic OBX-5103"}},
		"unclean elections lose checkpoints":  {topic: "ckpt", key: "unclean.leader.election.enable", value: "true", want: []string{"warn topic OBX-5103"}},
		"one replica is enough":               {topic: "events", key: "min.insync.replicas", value: "1", want: []string{"warn topic OBX-5101"}},
		"every replica is needed":             {topic: "events", key: "min.insync.replicas", value: "3", want: []string{"warn topic OBX-5101"}},
		"more replicas are needed than exist": {topic: "events", key: "min.insync.replicas", value: "4", want: []string{"fail topic OBX-5101"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := sound()
			if c.topic != "" {
				all[c.topic][c.key] = c.value
			}
			r := newWorld(t, all, c.partitions).run(t)
			if diff := cmp.Diff(c.want, troubles(r)); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, text(r))
			}
		})
	}
}

func TestOneBrokerHoldsEverything(t *testing.T) {
	t.Parallel()
	all := sound()
	for _, set := range all {
		set["min.insync.replicas"] = "1"
	}
	r := newWorld(t, all, nil, kfake.NumBrokers(1)).run(t)
	w := "warn topic OBX-5101"
	if diff := cmp.Diff([]string{w, w, w, w}, troubles(r)); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, text(r))
	}
}

// A partition that nobody leads, or that too few replicas follow, takes no
// writes.
func TestOffline(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*kmsg.MetadataResponseTopicPartition){
		"no leader":         func(p *kmsg.MetadataResponseTopicPartition) { p.Leader, p.ErrorCode = -1, kerr.LeaderNotAvailable.Code },
		"too few replicas ": func(p *kmsg.MetadataResponseTopicPartition) { p.ISR = p.ISR[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sound(), nil)
			w.cluster.ControlKey(kmsg.Metadata.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
				w.cluster.KeepControl()
				req := kreq.(*kmsg.MetadataRequest)
				if len(req.Topics) != 1 || *req.Topics[0].Topic != "events" {
					return nil, nil, false
				}
				resp := req.ResponseKind().(*kmsg.MetadataResponse)
				topic, p := kmsg.NewMetadataResponseTopic(), kmsg.NewMetadataResponseTopicPartition()
				topic.Topic, topic.AuthorizedOperations = kmsg.StringPtr("events"), 1<<kmsg.ACLOperationRead|1<<kmsg.ACLOperationWrite|1<<kmsg.ACLOperationDescribe
				p.Leader, p.Replicas, p.ISR = 1, []int32{0, 1, 2}, []int32{0, 1, 2}
				spoil(&p)
				topic.Partitions = append(topic.Partitions, p)
				resp.Topics = append(resp.Topics, topic)
				return resp, nil, true
			})
			r := w.run(t)
			if diff := cmp.Diff([]string{"fail topic OBX-5102"}, troubles(r)); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, text(r))
			}
		})
	}
}

// Before init nothing is there: each topic is named, and the probe has no place.
func TestMissingTopics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, nil)
	w.cfg.Topics.Events = "" // a template
	for create, want := range map[bool][]string{
		false: {"fail topic OBX-5005", "warn topic OBX-5005", "fail topic OBX-5005"},
		true:  {"warn topic OBX-5005", "warn topic OBX-5005", "fail topic OBX-5005"},
	} {
		w.cfg.CreateTopics = create
		r := w.run(t)
		if diff := cmp.Diff(want, troubles(r)); diff != "" {
			t.Errorf("(-want +got):\n%s\n%s", diff, text(r))
		}
		probe := r.Results[len(r.Results)-1]
		if probe.Step != preflight.StepProbe || probe.Status != preflight.Skipped || !strings.Contains(probe.Finding, "outbox-relay init") {
			t.Errorf("%+v", probe)
		}
	}
}

// Below transaction.version 2 the guarantee is degraded, which is no failure.
func TestDegraded(t *testing.T) {
	t.Parallel()
	r := newWorld(t, sound(), nil, kfake.MaxVersions(kversion.V3_7_0()), kfake.NumBrokers(3)).run(t)
	w := "warn api OBX-5104"
	if diff := cmp.Diff([]string{w, w, w}, troubles(r)); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, text(r))
	}
}

// A level below the full one degrades as well; release 4.0 can be left there.
func TestDegradedLevel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sound(), nil)
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	req, level := kmsg.NewPtrUpdateFeaturesRequest(), kmsg.NewUpdateFeaturesRequestFeatureUpdate()
	level.Feature, level.MaxVersionLevel, level.AllowDowngrade, level.UpgradeType = "transaction.version", 1, true, 2
	req.FeatureUpdates = append(req.FeatureUpdates, level)
	if resp, err := req.RequestWith(t.Context(), cl); err != nil || resp.ErrorCode != 0 {
		t.Fatalf("%v %+v", err, resp)
	}
	r := w.run(t)
	if got := troubles(r); len(got) != 3 || got[0] != "warn api OBX-5104" || !strings.Contains(text(r), "transaction.version=1: the guarantee is degraded") {
		t.Errorf("%v\n%s", got, text(r))
	}
}

func TestTransactionTimeoutAboveTheBrokers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sound(), nil, kfake.BrokerConfigs(map[string]string{"transaction.max.timeout.ms": "30000"}))
	r := w.run(t)
	if diff := cmp.Diff([]string{"fail transaction-timeout OBX-5008"}, troubles(r)); diff != "" {
		t.Fatalf("(-want +got):\n%s\n%s", diff, text(r))
	}
	if !strings.Contains(text(r), "30s (transaction.max.timeout.ms)") {
		t.Errorf("the limit is not named:\n%s", text(r))
	}
}

// Brokers that mix up the ends of transactions are found out.
func TestProbeContradicted(t *testing.T) {
	t.Parallel()
	for name, flip := range map[string]func(n int, req *kmsg.EndTxnRequest){
		"aborted is visible":       func(n int, req *kmsg.EndTxnRequest) { req.Commit = true },
		"committed is not visible": func(n int, req *kmsg.EndTxnRequest) { req.Commit = n > 1 && req.Commit },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sound(), nil)
			n := 0
			w.cluster.ControlKey(kmsg.EndTxn.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
				w.cluster.KeepControl()
				n++
				flip(n, req.(*kmsg.EndTxnRequest))
				return nil, nil, false
			})
			r := w.run(t)
			if diff := cmp.Diff([]string{"fail probe OBX-5107"}, troubles(r)); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, text(r))
			}
		})
	}
}

// What the probe leaves is nothing that a reader of checkpoints would take for
// one, and nothing that a consumer of events would see.
func TestProbeLeavesNoTrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sound(), nil)
	w.run(t)
	w.run(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.ConsumeTopics("ckpt", "events", "dlq", "dlq.state"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var records []*kgo.Record
	for len(records) < 4 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatal(err)
		}
		records = append(records, fs.Records()...)
	}
	for i, rec := range records {
		if kind, _ := checkpoint.KindOf(rec.Key); kind != checkpoint.Unknown || rec.Topic != "ckpt" || string(rec.Key) != string(records[0].Key) {
			t.Errorf("record %d: topic %s, key %s", i, rec.Topic, rec.Key)
		}
		if tombstone := i%2 == 1; (rec.Value == nil) != tombstone {
			t.Errorf("record %d is a tombstone: %t", i, rec.Value == nil)
		}
	}
}

// Each broker of the list is on its own: one that cannot be reached does not
// keep the others from being looked at, nor the cluster.
func TestBrokersAreIndependent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sound(), nil)
	silent, closed := silence(t), closedPort(t)
	w.cfg.Kafka.Brokers = append(w.cfg.Kafka.Brokers, closed, silent, "nowhere.invalid:9092")
	w.cfg.Kafka.ConnectionTimeout = time.Second
	w.cfg.Lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	since := time.Now()
	r := w.run(t)
	if took := time.Since(since); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	bad := map[string]string{}
	for _, s := range r.Results {
		if s.Status == preflight.Fail {
			bad[s.Target] = s.Step
		}
	}
	if diff := cmp.Diff(map[string]string{closed: "connect", silent: "api", "nowhere.invalid:9092": "resolve"}, bad); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, text(r))
	}
	if last := r.Results[len(r.Results)-1]; last.Step != preflight.StepProbe || last.Status != preflight.Pass {
		t.Errorf("the probe: %+v", last)
	}
}

// Where nothing answers, it is over after the time to connect, whether it is
// the handshake or the first request that waits.
func TestNothingAnswers(t *testing.T) {
	t.Parallel()
	for _, mode := range []kafka.Switch{kafka.Off, kafka.On} {
		t.Run("TLS "+mode.String(), func(t *testing.T) {
			t.Parallel()
			nothingAnswers(t, mode)
		})
	}
}

func nothingAnswers(t *testing.T, mode kafka.Switch) {
	w := newWorld(t, nil, nil)
	w.cfg.Kafka.TLS.Mode = mode
	w.cfg.Kafka.Brokers = []string{silence(t), silence(t), silence(t), silence(t), closedPort(t)}
	w.cfg.Kafka.ConnectionTimeout = time.Second
	since := time.Now()
	r := w.run(t)
	if took := time.Since(since); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	if r.Reached || !r.Failed() {
		t.Errorf("reached %t, failed %t", r.Reached, r.Failed())
	}
	var cluster []preflight.Status
	for _, s := range r.Results[len(r.Results)-6:] {
		cluster = append(cluster, s.Status)
	}
	skip := preflight.Skipped
	if diff := cmp.Diff([]preflight.Status{skip, skip, skip, skip, skip, skip}, cluster); diff != "" {
		t.Errorf("steps of the cluster:\n%s", text(r))
	}
}

// A name with an address that does not answer works, and costs time.
func TestOneAddressOfTwo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sound(), nil)
	_, port, _ := net.SplitHostPort(w.cfg.Kafka.Brokers[0])
	w.cfg.Kafka.Brokers = []string{"localhost:" + port}
	w.cfg.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("127.0.0.1")}, nil
	}
	r := w.run(t)
	if diff := cmp.Diff([]string{"warn connect OBX-5108"}, troubles(r)); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, text(r))
	}
}

// The classic trap: the list is reachable, and the brokers send clients away.
func TestAdvertisedListener(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		host string
		all  bool
		want []string
	}{
		"one of them":  {"127.0.0.1", false, []string{"fail advertised OBX-5100"}},
		"all of them":  {"127.0.0.1", true, []string{"fail advertised OBX-5100", "fail advertised OBX-5100", "fail advertised OBX-5100"}},
		"unknown name": {"kafka.invalid", true, []string{"fail advertised OBX-5100", "fail advertised OBX-5100", "fail advertised OBX-5100"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sound(), nil)
			w.cfg.Kafka.RequestTimeout = 2 * time.Second
			w.cfg.Lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
				return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
			}
			w.advertise(t, c.host, closedPort(t), c.all)
			r := w.run(t)
			got := troubles(r)
			if len(got) < len(c.want) || cmp.Diff(c.want, got[:len(c.want)]) != "" {
				t.Fatalf("%v, want %v\n%s", got, c.want, text(r))
			}
			probe := r.Results[len(r.Results)-1]
			if c.all && probe.Status != preflight.Skipped {
				t.Errorf("the probe: %+v", probe)
			}
			for _, s := range r.Results {
				if s.Code == fault.AdvertisedListener.ID && !strings.Contains(s.Finding, c.host+":") {
					t.Errorf("the address is not named: %+v", s)
				}
			}
		})
	}
}

// Being told to stop is no finding.
func TestStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, nil)
	w.cfg.Kafka.Brokers = []string{silence(t)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := preflight.Run(ctx, w.cfg, nil); err == nil {
		t.Error("no error")
	}
}
