package dlq_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/sink"
)

func TestReplay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write(t, r.letter("1", "a"), r.letter("2", "b", func(l *dlq.Letter) {
		l.Partition, l.Attempts, l.Group = outbox.PartitionOf(1), 2, "billing"
	}))
	got, err := r.replay(t, r.tool(), dlq.Job{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[dlq.Outcome][]string{dlq.OutcomeDone: {"1", "2"}}, got); diff != "" {
		t.Error(diff)
	}
	records := r.committed(t, events)
	if len(records) != 2 {
		t.Fatalf("%d records", len(records))
	}
	for _, rec := range records {
		id := header(rec, outbox.HeaderID)
		if string(rec.Value) != `{"id":"`+id+`"}` || header(rec, "tenant") != "acme" || !rec.Timestamp.Equal(written) {
			t.Errorf("letter %s was changed: %s %v", id, rec.Value, rec.Timestamp)
		}
		if header(rec, outbox.HeaderReplayOf) != id || header(rec, outbox.HeaderCheckpoint) != "" {
			t.Errorf("letter %s is not marked: %v", id, rec.Headers)
		}
		at, err := time.Parse(time.RFC3339Nano, header(rec, outbox.HeaderReplayed))
		if err != nil || time.Since(at) > time.Minute {
			t.Errorf("letter %s was replayed at %v, %v", id, at, err)
		}
	}
	want := records[0]
	if records[1].Partition == 1 && header(records[1], outbox.HeaderID) == "2" {
		want = records[1]
	}
	if header(want, outbox.HeaderAttempts) != "2" || header(want, outbox.HeaderGroup) != "billing" || want.Partition != 1 {
		t.Errorf("partition %d, %v", want.Partition, want.Headers)
	}
	marks := r.committed(t, dlq.StateTopic(letters))
	if len(marks) != 2 {
		t.Fatalf("%d marks", len(marks))
	}
	m, err := dlq.ParseMark(marks[1])
	if err != nil {
		t.Fatal(err)
	}
	if string(marks[1].Key) != "2@billing" || m.Action != dlq.Replayed || m.Topic != events || m.By != "test" || m.Letter.Offset != 1 {
		t.Errorf("%s %+v", marks[1].Key, m)
	}
	if ids, _ := open(t, r.tool().View, dlq.Filter{}); len(ids) != 0 {
		t.Errorf("open are still %v", ids)
	}
}

// Whatever becomes of the end of a transaction, each letter is replayed once.
func TestReplayThroughDoubt(t *testing.T) {
	t.Parallel()
	const n = 1200 // three transactions
	for name, w := range map[string]*wire{
		"the answer is lost after the commit": {n: 2, answer: true},
		"the request is lost":                 {n: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.many(t, n)
			got, err := r.replay(t, r.tool(w.option()), dlq.Job{})
			if err != nil {
				t.Fatal(err)
			}
			if !w.spoiled.Load() {
				t.Fatal("nothing was spoiled")
			}
			if sum := len(got[dlq.OutcomeDone]) + len(got[dlq.OutcomeClosed]); sum != n || len(got[dlq.OutcomeRefused]) > 0 {
				t.Errorf("told about %d", sum)
			}
			r.once(t, n)
		})
	}
}

// Nothing of a process is needed to go on after it: what counts is read.
func TestReplayAfterDeath(t *testing.T) {
	t.Parallel()
	const n = 700
	for name, w := range map[string]*wire{
		"the answer is lost after the commit": {n: 1, answer: true},
		"the request is lost":                 {n: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.many(t, n)
			ctx, die := context.WithCancel(t.Context())
			defer die()
			tool := r.tool(w.option())
			_, refs := open(t, tool.View, dlq.Filter{})
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = tool.Run(ctx, dlq.Job{Action: dlq.Replayed, Report: func(dlq.Result) { die() }}, refs)
			}()
			<-done
			if _, err := r.replay(t, r.tool(), dlq.Job{}); err != nil {
				t.Fatal(err)
			}
			r.once(t, n)
		})
	}
}

// Whoever comes later takes over, between the produce and the commit of the
// one before, who then gives up and has doubled nothing.
func TestReplayFencedInTheMiddle(t *testing.T) {
	t.Parallel()
	const n = 700
	r := newRig(t)
	r.many(t, n)
	w := &wire{n: 2, before: func() {
		if _, err := r.replay(t, r.tool(), dlq.Job{}); err != nil {
			t.Error(err)
		}
	}}
	_, err := r.replay(t, r.tool(w.option()), dlq.Job{})
	if !isCode(err, fault.ReplayFenced) {
		t.Errorf("got %v", err)
	}
	r.once(t, n)
}

// poisoned refuses every batch that holds the word, as a broker does: the
// batch, not the record.
func (r *rig) poisoned(err *kerr.Error) *kfake.FaultHandle {
	return r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: events, Err: err, Count: -1, When: func(req kmsg.Request) bool {
		for _, topic := range req.(*kmsg.ProduceRequest).Topics {
			for _, p := range topic.Partitions {
				if bytes.Contains(p.Records, []byte("poison")) {
					return true
				}
			}
		}
		return false
	}})
}

func TestReplayWithoutTheRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.topic(t, "small", 1, map[string]string{"max.message.bytes": "1000"})
	poison := func(l *dlq.Letter) { l.Value = []byte("poison") }
	to := func(topic string) func(*dlq.Letter) { return func(l *dlq.Letter) { l.Topic = topic } }
	r.write(t,
		r.letter("1", "a"),
		r.letter("2", "b", poison),
		r.letter("3", "c"),
		r.letter("4", "b"), // behind 2
		r.letter("5", "b", to("small")),
		r.letter("6", "d", to("a b")),
		r.letter("7", "d", to("missing")),
		r.letter("8", "e", to("small"), func(l *dlq.Letter) { l.Value = make([]byte, 1000) }),
		r.letter("9", "f", to("checkpoint")),
		r.letter("10", "f", to("__consumer_offsets")),
		r.letter("11", "g", func(l *dlq.Letter) { l.Partition = outbox.PartitionOf(7) }),
		r.letter("12", "h", func(l *dlq.Letter) { l.Attempts = 4 }),
		r.letter("13", "i", func(l *dlq.Letter) { l.Value, l.Omitted.Payload = nil, true }),
		r.letter("14", "j"),
	)
	r.poisoned(kerr.InvalidRecord)
	got, err := r.replay(t, r.tool(), dlq.Job{MaxReplays: 3})
	if err != nil {
		t.Fatal(err)
	}
	want := map[dlq.Outcome][]string{
		dlq.OutcomeDone: {"1", "3", "5", "14"},
		dlq.OutcomeRefused: {
			"2 refused", "4 letter_held_back", "6 invalid_topic", "7 topic_missing", "8 too_large", "9 unauthorized_topic",
			"10 unauthorized_topic", "11 partition_range", "12 letter_loop", "13 letter_omitted",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if ids, _ := open(t, r.tool().View, dlq.Filter{}); len(ids) != 10 {
		t.Errorf("open are %v", ids)
	}
	if n := len(r.committed(t, events)) + len(r.committed(t, "small")); n != 4 {
		t.Errorf("%d records", n)
	}
}

// A topic that may be looked at and not written to is found out by trying, once.
func TestReplayDenied(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.topic(t, "other", 1, nil)
	var all []dlq.Letter
	for i := range 20 {
		all = append(all, r.letter(fmt.Sprint(i), fmt.Sprint(i), func(l *dlq.Letter) {
			if i%2 == 0 {
				l.Topic = "other"
			}
		}))
	}
	r.write(t, all...)
	h := r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "other", Err: kerr.TopicAuthorizationFailed, Count: -1})
	got, err := r.replay(t, r.tool(), dlq.Job{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got[dlq.OutcomeDone]) != 10 || len(got[dlq.OutcomeRefused]) != 10 || got[dlq.OutcomeRefused][9] != "18 kafka_denied" {
		t.Errorf("got %v", got)
	}
	if h.Hits() > 8 {
		t.Errorf("%d tries", h.Hits())
	}
}

func TestReplayTo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.topic(t, "repair", 1, nil)
	r.write(t, r.letter("1", "a", func(l *dlq.Letter) { l.Topic, l.Partition = "a b", outbox.PartitionOf(9) }))
	if got, err := r.replay(t, r.tool(), dlq.Job{To: "repair"}); err != nil || len(got[dlq.OutcomeDone]) != 1 {
		t.Fatalf("got %v, %v", got, err)
	}
	if n := len(r.committed(t, "repair")); n != 1 {
		t.Errorf("%d records", n)
	}
}

// Order is that of the rows, not that of the letters.
func TestReplayOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two := r.letter("1", "a"), r.letter("2", "a")
	r.write(t, two, one)
	if _, err := r.replay(t, r.tool(), dlq.Job{}); err != nil {
		t.Fatal(err)
	}
	r.once(t, 2)
}

// Letters of one event: the newer one stands for the older, in whatever order
// they are met, and a mark that is replaced opens nothing again.
func TestLettersOfOneEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second := r.letter("1", "a"), r.letter("1", "a")
	r.write(t, second, first)
	got, err := r.replay(t, r.tool(), dlq.Job{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[dlq.Outcome][]string{dlq.OutcomeDone: {"1"}, dlq.OutcomeClosed: {"1"}}, got); diff != "" {
		t.Error(diff)
	}
	r.write(t, r.letter("1", "a"))
	if _, err := r.replay(t, r.tool(), dlq.Job{}); err != nil {
		t.Fatal(err)
	}
	if n := len(r.committed(t, events)); n != 2 {
		t.Errorf("%d records", n)
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.many(t, 3)
	if _, err := r.replay(t, r.tool(), dlq.Job{Action: dlq.Purged, Because: "a test"}); err != nil {
		t.Fatal(err)
	}
	if n := len(r.committed(t, events)); n != 0 {
		t.Errorf("%d records", n)
	}
	for _, rec := range r.committed(t, dlq.StateTopic(letters)) {
		if m, err := dlq.ParseMark(rec); err != nil || m.Action != dlq.Purged || m.Because != "a test" || m.Topic != "" {
			t.Errorf("%+v, %v", m, err)
		}
	}
	if ids, _ := open(t, r.tool().View, dlq.Filter{}); len(ids) != 0 {
		t.Errorf("open are still %v", ids)
	}
}

// Marks for letters that are not there mean that the topic was made anew.
func TestStateAhead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.many(t, 1)
	m := dlq.Mark{ID: "x", Action: dlq.Purged, Letter: dlq.Spot{Topic: letters, Offset: 99}}
	rec, err := m.Record(dlq.StateTopic(letters))
	if err != nil {
		t.Fatal(err)
	}
	r.produce(t, rec)
	err = r.tool().View.Letters(t.Context(), func(*dlq.Item) error { return nil }, nil)
	if !isCode(err, fault.StateAhead) {
		t.Errorf("got %v", err)
	}
}

func TestMarkUnreadable(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	m := dlq.Mark{ID: "x", Action: dlq.Purged}
	rec, err := m.Record(dlq.StateTopic(letters))
	if err != nil {
		t.Fatal(err)
	}
	rec.Value = bytes.Replace(rec.Value, []byte(`"v":1`), []byte(`"v":2`), 1)
	r.produce(t, rec)
	err = r.tool().View.Letters(t.Context(), func(*dlq.Item) error { return nil }, nil)
	if !isCode(err, fault.MarkUnreadable) {
		t.Errorf("got %v", err)
	}
}

var _ = sink.Partitioner

// A letter that is gone when its turn comes is told about, and the rest goes on.
func TestLetterGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.many(t, 3)
	tool := r.tool()
	_, refs := open(t, tool.View, dlq.Filter{})
	cl, err := kgo.NewClient(r.opts()...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	upTo := kadm.Offsets{}
	upTo.Add(kadm.Offset{Topic: letters, Partition: 0, At: 1})
	if _, err := kadm.NewClient(cl).DeleteRecords(t.Context(), upTo); err != nil {
		t.Fatal(err)
	}
	var got []string
	err = tool.Run(t.Context(), dlq.Job{Action: dlq.Replayed, Report: func(res dlq.Result) {
		what := res.ID
		if res.Err != nil {
			what = res.Err.Code.Name
		}
		got = append(got, what)
	}}, refs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"letter_gone", "2", "3"}, got); diff != "" {
		t.Error(diff)
	}
}

// Somebody's open transaction in the state topic may hold a mark: it is waited
// for, and not for ever.
func TestStateTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.many(t, 1)
	cl, err := kgo.NewClient(r.opts(kgo.TransactionalID("relay"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	m := dlq.Mark{ID: "1", Action: dlq.Released, Letter: dlq.Spot{Topic: letters}}
	rec, err := m.Record(dlq.StateTopic(letters))
	if err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	tool := r.tool()
	tool.TransactionTimeout, tool.Tries = time.Second, 1
	_, refs := open(t, tool.View, dlq.Filter{})
	if err := tool.Run(t.Context(), dlq.Job{Action: dlq.Replayed}, refs); !isCode(err, fault.StateTimeout) {
		t.Errorf("got %v", err)
	}
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if got, err := r.replay(t, tool, dlq.Job{}); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if n := len(r.committed(t, events)); n != 0 {
		t.Errorf("%d records, and the letter was released", n)
	}
}
