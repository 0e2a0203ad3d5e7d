package sink_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/sink"
)

// Each session finds what its predecessor has committed, and counts on.
func TestOpenReadsTheState(t *testing.T) {
	r := newRig(t, kfake.ClusterID("the-cluster"))
	first, s := r.open(t)
	if s.No != 1 || s.State.Last != nil || s.State.Intent != nil {
		t.Errorf("a new relay begins as session %d with %+v", s.No, s.State)
	}
	if s.ClusterID != "the-cluster" || strings.Trim(s.TopicID, "0-=A") == "" {
		t.Errorf("cluster %q, topic %q", s.ClusterID, s.TopicID)
	}
	want := follow(s, 0)
	if err := first.write(t.Context(), t, want); err != nil {
		t.Fatal(err)
	}
	first.Close()
	_, s = r.open(t)
	if s.No != 2 {
		t.Errorf("the second session is number %d", s.No)
	}
	if s.State.Last == nil {
		t.Fatal("the checkpoint was not found")
	}
	want.Time = s.State.Last.Time
	if diff := cmp.Diff(want, *s.State.Last); diff != "" {
		t.Errorf("checkpoint (-written +read):\n%s", diff)
	}
}

// Who opens takes over: what the predecessor has open is aborted, and it can
// commit nothing any more.
func TestOpenFencesThePredecessor(t *testing.T) {
	r := newRig(t)
	old, s := r.open(t)
	if err := old.Begin(); err != nil {
		t.Fatal(err)
	}
	old.Add(event("old", 0))
	successor, s2 := r.open(t)
	if err := old.Commit(t.Context(), follow(s, 1)); fault.CodeOf(err).Class != fault.Retry {
		t.Errorf("the predecessor's commit: %v", err)
	}
	c := follow(s2, 1)
	if err := successor.write(t.Context(), t, c, event("new", 0)); err != nil {
		t.Fatal(err)
	}
	if err := successor.ReadBack(t.Context(), c); err != nil {
		t.Error(err)
	}
	if got := r.committed(t, events); !slices.Equal(got, []string{"new"}) {
		t.Errorf("committed: %v", got)
	}
	old.Close() // has nothing to say any more
	if err := successor.write(t.Context(), t, follow(sessionAt(s2, c), 1), event("newer", 0)); err != nil {
		t.Errorf("after the predecessor's end: %v", err)
	}
}

// The same when the predecessor had flushed and only its EndTxn is missing.
func TestOpenAbortsWhatWasFlushed(t *testing.T) {
	r := newRig(t)
	old, s := r.open(t)
	r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: ckpt, Err: kerr.InvalidRecord})
	if err := old.write(t.Context(), t, follow(s, 1), event("old", 0)); err == nil {
		t.Fatal("the commit went through")
	}
	_, s = r.open(t) // without a Close before it, as after a kill
	if s.State.Last != nil {
		t.Errorf("found %+v", s.State.Last)
	}
	if got := r.committed(t, events); len(got) > 0 {
		t.Errorf("committed: %v", got)
	}
}

// A topic that cannot keep a checkpoint is refused before anybody is fenced.
func TestCheckpointTopicRefused(t *testing.T) {
	for _, tc := range []struct {
		topic      string
		partitions int32
		configs    map[string]string
		code       *fault.Code
		says       string
	}{
		{"two", 2, map[string]string{"cleanup.policy": "compact"}, fault.KafkaTopicShape, "topic two has 2 partitions"},
		{"delete", 1, map[string]string{"cleanup.policy": "delete"}, fault.KafkaTopicShape, "topic delete has cleanup.policy=delete"},
		{"both", 1, map[string]string{"cleanup.policy": "compact,delete"}, fault.KafkaTopicShape, "cleanup.policy=compact,delete"},
		{"plain", 1, nil, fault.KafkaTopicShape, "cleanup.policy=delete"},
		{"missing", 0, nil, fault.CheckpointMissing, "topic missing"},
	} {
		t.Run(tc.topic, func(t *testing.T) {
			r := newRig(t)
			r.cfg.CheckpointTopic = tc.topic
			if tc.partitions > 0 {
				r.topic(t, tc.topic, tc.partitions, tc.configs)
			}
			fences := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Observe: true, Count: -1})
			_, _, err := sink.Open(t.Context(), r.cfg, r.opts, zerolog.Nop(), nil)
			if !fault.Has(err, tc.code) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %s with %q", err, tc.code.ID, tc.says)
			}
			if fences.Hits() > 0 {
				t.Error("somebody was fenced for nothing")
			}
			if r.cluster.TopicInfo("missing") != nil {
				t.Error("the topic was created")
			}
		})
	}
}

// A broker that has just started may not know the topic yet: it is asked again,
// past the client's memory of its answer.
func TestCheckpointTopicComesLate(t *testing.T) {
	r := newRig(t)
	r.cfg.CheckpointTopic = "late"
	asked := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "late", Observe: true, Count: -1})
	created := make(chan error, 1)
	go func() {
		if err := asked.Wait(t.Context(), 1); err != nil {
			created <- err
			return
		}
		created <- r.cluster.CreateTopic("late", 1, map[string]string{"cleanup.policy": "compact"})
	}()
	start := time.Now()
	r.open(t)
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("seen only after %s", d)
	}
	if err := <-created; err != nil {
		t.Error(err)
	}
}

// Who has lost the slot must not fence who has it now.
func TestOpenAsksForTheSlot(t *testing.T) {
	lost := fault.New(fault.PostgresLost, "injected")
	for _, tc := range []struct {
		name   string
		alive  int // so many times
		fences int
	}{{"lost before the fence", 0, 0}, {"lost meanwhile", 1, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			asked := 0
			r.cfg.Alive = func(context.Context) error {
				if asked++; asked > tc.alive {
					return lost
				}
				return nil
			}
			fences := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Observe: true, Count: -1})
			if _, _, err := sink.Open(t.Context(), r.cfg, r.opts, zerolog.Nop(), nil); !errors.Is(err, lost) {
				t.Errorf("got %v", err)
			}
			if fences.Hits() != tc.fences {
				t.Errorf("%d fences, want %d", fences.Hits(), tc.fences)
			}
			if got := r.committed(t, ckpt); len(got) > 0 {
				t.Errorf("a barrier was written: %v", got)
			}
		})
	}
}

// Below transaction.version 2 a late EndTxn can end the next transaction: the
// relay works, and says so.
func TestDegraded(t *testing.T) {
	full := newRig(t)
	if _, s := full.open(t); s.Degraded {
		t.Error("brokers with transaction.version 2 count as degraded")
	}
	old := newRig(t, kfake.MaxVersions(kversion.V3_8_0()))
	if _, s := old.open(t); !s.Degraded {
		t.Error("brokers that do not know transaction.version count as good")
	}
	lowered := newRig(t)
	lowered.lower(t, "transaction.version", 1)
	if _, s := lowered.open(t); !s.Degraded {
		t.Error("transaction.version 1 counts as good")
	}
}

// lower sets a feature of the cluster to a lower level.
func (r *rig) lower(t *testing.T, feature string, level int16) {
	t.Helper()
	cl, err := kgo.NewClient(r.opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	req := kmsg.NewPtrUpdateFeaturesRequest()
	f := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
	f.Feature, f.MaxVersionLevel, f.AllowDowngrade, f.UpgradeType = feature, level, true, 3
	req.FeatureUpdates = append(req.FeatureUpdates, f)
	resp, err := req.RequestWith(t.Context(), cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A Kafka that is not there is waited for, and the wait can be ended.
func TestOpenWithoutKafka(t *testing.T) {
	r := newRig(t)
	r.cluster.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _, err := sink.Open(ctx, r.cfg, r.opts, zerolog.Nop(), nil)
	if !fault.Has(err, fault.KafkaRefused) {
		t.Errorf("got %v", err)
	}
}
