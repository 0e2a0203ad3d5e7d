package chaos

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/test/harness"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// SIGKILL after EndTxn was written and before it was answered, which no crash
// point can hit: the commit has happened, or it has not, and the dead process
// knew neither. A request that is held is delivered after the death of who sent
// it, while the successor is being fenced in.
func TestKilledBeforeTheAnswer(t *testing.T) {
	rig.Real(t)
	kafka, proxy := harness.NewProxiedKafka(t, harness.KafkaConfig{})
	r := rig.New(t, rig.Config{Kafka: kafka})
	r.Init(t)
	judge := r.Judge(t)
	stop := r.Load(t, load.Config{Seed: seed(t), LargeRows: 500, Pause: 20 * time.Millisecond})
	for range 3 {
		for _, hold := range []func(kmsg.Key, ...harness.RuleOption) *harness.Rule{proxy.HoldAnswer, proxy.HoldRequest} {
			relay := r.Serve(t, nil)
			rig.AwaitStreaming(t, relay)
			rule := hold(kmsg.EndTxn, harness.Matching(harness.Commits), harness.After(2))
			await(t, rule.Seen(), "EndTxn")
			if err := relay.Kill(); err != nil {
				t.Fatal(err)
			}
			rule.Release()
		}
	}
	last := r.Serve(t, nil)
	rig.AwaitStreaming(t, last)
	totals := stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r.AwaitCaughtUp(ctx, t)
	t.Logf("6 kills with EndTxn under way; load: %s", totals)
	judge.Verdict(t, everything...)
}
