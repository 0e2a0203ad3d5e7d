package sink_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/sink"
)

// refusing makes the broker refuse every batch for partition 1.
func refusing(r *rig) kfake.Fault {
	return kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: events, Partitions: []int32{1}, Err: kerr.InvalidTimestamp, Count: -1}
}

// The records of the batch that was refused are suspects; what failed for its
// sake is not.
func TestRefusedNamesItsSuspects(t *testing.T) {
	r := newRig(t)
	p, s := r.open(t)
	r.cluster.Fault(refusing(r))
	err := p.write(t.Context(), t, follow(s, 4), event("good", 0), event("one", 1), event("better", 0), event("two", 1))
	no := (*sink.RefusedError)(nil)
	if !errors.As(err, &no) || !fault.Has(err, fault.TransactionFailed) {
		t.Fatalf("got %v", err)
	}
	var suspects []string
	for _, r := range no.Suspects {
		suspects = append(suspects, string(r.Value))
	}
	if !slices.Equal(suspects, []string{"one", "two"}) || no.Code != fault.RowRefused || !errors.Is(err, kerr.InvalidTimestamp) {
		t.Errorf("suspects %v, code %s, %v", suspects, no.Code.ID, no.Err)
	}
}

// A probe says whether records are refused, changes nothing that a reader of
// committed records sees, fences nobody, and can be made again.
func TestProbe(t *testing.T) {
	r := newRig(t)
	p, s := r.open(t)
	if err := s.Catalog.Ensure(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	handle := r.cluster.Fault(refusing(r))
	probe := func(records ...*kgo.Record) error {
		t.Helper()
		refused, err := sink.Probe(t.Context(), r.cfg, r.opts, s.Catalog, records, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		return refused
	}
	if err := probe(event("good", 0), event("better", 0)); err != nil {
		t.Errorf("good records are refused: %v", err)
	}
	for range 2 {
		if err := probe(event("good", 0), event("bad", 1)); !errors.Is(err, kerr.InvalidTimestamp) {
			t.Errorf("a bad record: %v", err)
		}
	}
	if handle.Hits() != 2 {
		t.Errorf("%d requests were refused", handle.Hits())
	}
	if got := r.committed(t, events); len(got) > 0 {
		t.Errorf("committed: %v", got)
	}
	// The session that found the refusal is at an end, but it is not fenced.
	if err := p.write(t.Context(), t, follow(s, 1), event("mine", 0)); err != nil {
		t.Error(err)
	}
	if got := r.committed(t, events); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("committed: %v", got)
	}
}

// What cannot be tried has taught nothing.
func TestProbeFails(t *testing.T) {
	r := newRig(t)
	_, s := r.open(t)
	r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: events, Err: kerr.TopicAuthorizationFailed, Count: -1})
	refused, err := sink.Probe(t.Context(), r.cfg, r.opts, s.Catalog, []*kgo.Record{event("x", 0)}, zerolog.Nop())
	if refused != nil || !fault.Has(err, fault.KafkaDenied) {
		t.Errorf("refused %v, %v", refused, err)
	}
}
