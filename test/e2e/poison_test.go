package e2e

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// everyPoison is one of each kind that a row can have.
var everyPoison = []load.Poison{
	load.Oversize, load.IllegalTopic, load.DeniedTopic, load.ReservedHeader, load.Undecodable, load.PartitionRange, load.Ancient,
}

// narrow are settings of an events topic that has something to refuse: rows of
// load.Oversize are too large, and its brokers take nothing that is older than
// a day.
var narrow = map[string]string{"max.message.bytes": "65536", "message.timestamp.before.max.ms": "86400000"}

// certain are kinds of transaction of which the writer knows how they ended.
var certain = load.Mix{Single: 50, Ten: 20, Large: 1, MultiKey: 12, Savepoint: 10, Rollback: 6}

// A load in which one row in a hundred is poison of each kind. P13 holds the
// letters against the rows: exactly those, each with its reason; the properties
// of order hold over all that is left.
func TestPoisonUnderLoad(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	r := rig.New(t, rig.Config{EventSettings: narrow})
	r.Init(t)
	judge := r.Judge(t)
	relay := r.Serve(t, nil)
	rig.AwaitStreaming(t, relay)
	totals := r.Written(ctx, t, load.Config{
		Seed: 1, Transactions: 1500, LargeRows: 1000, Poisons: everyPoison, PoisonShare: 0.07, OversizeBytes: 80_000, Mix: certain,
	})
	r.AwaitCaughtUp(ctx, t)
	t.Log(totals)
	judge.Verdict(t, verify.P1, verify.P2, verify.P3, verify.P4, verify.P5, verify.P6, verify.P7, verify.P8, verify.P9, verify.P10, verify.P11, verify.P13)

	want, got := map[string]int{}, r.Reasons(ctx, t)
	for _, p := range everyPoison {
		want[p.Reason()] = totals.Poisons[p]
		if n := totals.Poisons[p]; n*200 < totals.Rows {
			t.Errorf("%d rows of %s among %d are less than they should be", n, p, totals.Rows)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("letters by reason (-want +got):\n%s", diff)
	}
}
