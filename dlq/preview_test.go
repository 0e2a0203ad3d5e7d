package dlq_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/outbox"
)

// A preview says what the replay then does, and changes nothing.
func TestPreview(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.topic(t, "small", 1, map[string]string{"max.message.bytes": "200"})
	spoiled := func(id, key string, f func(*dlq.Letter)) dlq.Letter { return r.letter(id, key, f) }
	r.write(t,
		r.letter("1", "a"),
		spoiled("2", "b", func(l *dlq.Letter) { l.Topic = "a b" }),
		spoiled("3", "c", func(l *dlq.Letter) { l.Topic = "__consumer_offsets" }),
		spoiled("4", "d", func(l *dlq.Letter) { l.Partition = outbox.PartitionOf(99) }),
		spoiled("5", "d", func(*dlq.Letter) {}), // behind 4
		spoiled("6", "e", func(l *dlq.Letter) { l.Attempts = 4 }),
		spoiled("7", "f", func(l *dlq.Letter) { l.Topic = "small" }),
		spoiled("8", "g", func(l *dlq.Letter) { l.Topic = "nowhere" }),
		spoiled("9", "h", func(l *dlq.Letter) { l.Value, l.Omitted.Payload = nil, true }),
	)
	job := dlq.Job{Action: dlq.Replayed, MaxReplays: 3}
	tool := r.tool()
	_, refs := open(t, tool.View, dlq.Filter{})
	foretold := map[dlq.Outcome][]string{}
	err := tool.Preview(t.Context(), job, refs, func(i *dlq.Item, res dlq.Result) {
		what := res.ID
		if res.Err != nil {
			what += " " + res.Err.Code.Name
		}
		if i.ID() != res.ID {
			t.Errorf("letter %s is told of as %s", i.ID(), res.ID)
		}
		foretold[res.Outcome] = append(foretold[res.Outcome], what)
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.committed(t, events)) + len(r.committed(t, dlq.StateTopic(letters))); n != 0 {
		t.Errorf("%d records were written", n)
	}
	got, err := r.replay(t, tool, job)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, foretold); diff != "" || len(got[dlq.OutcomeRefused]) != 8 {
		t.Errorf("%v (-done +foretold):\n%s", got, diff)
	}
}
