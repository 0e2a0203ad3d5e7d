package e2e

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/test/load"
	"github.com/holdwall/outbox-relay/test/rig"
)

// aDay is for events topics whose brokers take nothing older: they refuse what
// no relay can know to be unfit.
const aDay = "86400000"

// certain are kinds of transaction of which the writer knows how they ended.
var certain = load.Mix{Single: 50, Ten: 20, Large: 1, MultiKey: 12, Savepoint: 10, Rollback: 6}

// judged are the properties that have facts in every run with letters.
var judged = []verify.Property{
	verify.P1, verify.P2, verify.P3, verify.P4, verify.P5, verify.P6, verify.P7, verify.P8, verify.P9, verify.P10, verify.P11, verify.P13,
}

// A load in which one row in a hundred is poison of each kind. P13 holds the
// letters against the rows: exactly those, each with its reason; the properties
// of order hold over all that is left.
func TestPoisonUnderLoad(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	kinds := []load.Poison{
		load.Oversize, load.IllegalTopic, load.DeniedTopic, load.ReservedHeader, load.Undecodable, load.PartitionRange, load.Ancient,
	}
	r := rig.New(t, rig.Config{EventSettings: map[string]string{"max.message.bytes": "65536", "message.timestamp.before.max.ms": aDay}})
	r.Init(t)
	judge := r.Judge(t)
	rig.AwaitStreaming(t, r.Serve(t, nil))
	totals := r.Written(ctx, t, load.Config{
		Seed: 1, Transactions: 1500, LargeRows: 1000, Mix: certain, Poisons: kinds, PoisonShare: 0.07, OversizeBytes: 70_000,
	})
	r.AwaitCaughtUp(ctx, t)
	t.Log(totals)
	judge.Verdict(t, judged...)
	want := map[string]int{}
	for _, p := range kinds {
		want[p.Reason()] = totals.Poisons[p]
		if n := totals.Poisons[p]; n*200 < totals.Rows {
			t.Errorf("%d rows of %s among %d are less than they should be", n, p, totals.Rows)
		}
	}
	if diff := cmp.Diff(want, r.Reasons(ctx, t)); diff != "" {
		t.Errorf("letters by reason (-want +got):\n%s", diff)
	}
}

// Rows that only a broker finds unfit, a few inside of large transactions:
// exactly those become letters, and no transaction is cut for their sake.
func TestRefusedByBroker(t *testing.T) {
	ctx := within(t, 100*time.Second)
	r := rig.New(t, rig.Config{EventSettings: map[string]string{"message.timestamp.before.max.ms": aDay}})
	r.Init(t)
	judge := r.Judge(t)
	rig.AwaitStreaming(t, r.Serve(t, nil))
	totals := r.Written(ctx, t, load.Config{
		Seed: 3, Transactions: 4, Writers: 2, LargeRows: 5000, Mix: load.Mix{Large: 1}, Poisons: []load.Poison{load.Ancient}, PoisonShare: 0.0008,
	})
	r.AwaitCaughtUp(ctx, t)
	t.Log(totals)
	judge.Verdict(t, judged...)
	if totals.Poison == 0 {
		t.Fatal("no row was to be refused")
	}
	// Of each transaction of the source, the number of the Kafka transaction.
	ckpts := map[string]string{}
	for _, topic := range []string{r.Events, r.Letters} {
		r.Each(ctx, t, topic, func(rec *kgo.Record) {
			h := map[string]string{}
			for _, header := range rec.Headers {
				h[header.Key] = string(header.Value)
			}
			xid, ckpt := h["outbox.xid"], h["outbox.ckpt"]
			if prev, ok := ckpts[xid]; ok && prev != ckpt {
				t.Fatalf("transaction %s is cut: it is in %s and in %s", xid, prev, ckpt)
			}
			ckpts[xid] = ckpt
			if code := h["__connect.errors.exception.class.name"]; topic == r.Letters && code != "OBX-2007" {
				t.Errorf("letter %s has code %s", h["id"], code)
			}
		})
	}
	if len(ckpts) != totals.Transactions {
		t.Errorf("records of %d transactions, want %d", len(ckpts), totals.Transactions)
	}
	if diff := cmp.Diff(map[string]int{"refused": totals.Poison}, r.Reasons(ctx, t)); diff != "" {
		t.Errorf("letters by reason (-want +got):\n%s", diff)
	}
}
