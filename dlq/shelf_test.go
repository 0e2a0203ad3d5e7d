package dlq

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// room is a broker with the two topics of letters, and somebody who writes.
type room struct {
	opts []kgo.Opt
	cl   *kgo.Client
	at   map[string]Spot // of the newest letter, by event id
}

func newRoom(t *testing.T, partitions int32) *room {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "dlq"), kfake.SeedTopics(1, "dlq.state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	r := &room{opts: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}, at: map[string]Spot{}}
	r.cl, err = kgo.NewClient(append(r.opts, kgo.TransactionalID("writer"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.cl.Close)
	return r
}

func (r *room) options() ([]kgo.Opt, error) { return r.opts, nil }

// transaction writes records and commits or aborts.
func (r *room) transaction(t *testing.T, end kgo.TransactionEndTry, records ...*kgo.Record) {
	t.Helper()
	if err := r.cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := r.cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := r.cl.EndTransaction(t.Context(), end); err != nil {
		t.Fatal(err)
	}
}

// letter writes the letter of change lsn of a key.
func (r *room) letter(t *testing.T, key string, lsn pglogrepl.LSN, cause *fault.Code) {
	t.Helper()
	id := fmt.Sprintf("%s-%d", key, lsn)
	l := New(&kgo.Record{Topic: "events", Key: []byte(key), Value: []byte(id), Headers: []kgo.RecordHeader{
		{Key: outbox.HeaderID, Value: []byte(id)},
		{Key: outbox.HeaderTimeline, Value: []byte("1")},
		{Key: outbox.HeaderLSN, Value: []byte(lsn.String())},
		{Key: outbox.HeaderOrdinal, Value: strconv.AppendUint(nil, 1, 10)},
	}}, fault.New(cause, "x"), time.Now())
	rec := l.Record("dlq", 0)
	r.transaction(t, kgo.TryCommit, rec)
	r.at[id] = Spot{Topic: "dlq", Partition: rec.Partition, Offset: rec.Offset}
}

func (r *room) mark(t *testing.T, id string, a Action, end kgo.TransactionEndTry) {
	t.Helper()
	m := Mark{ID: id, Action: a, At: time.Now().UTC().Truncate(time.Microsecond), Letter: r.at[id]}
	rec, err := m.Record("dlq.state")
	if err != nil {
		t.Fatal(err)
	}
	r.transaction(t, end, rec)
}

// look is what may go on, as text: key: ids, done.
func look(t *testing.T, s *Shelf, held ...Held) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, err := s.Look(ctx, held)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, key := range []string{"a", "b", "c"} {
		hash, _ := KeyHash(&kgo.Record{Key: []byte(key)})
		names[hash] = key
	}
	var out []string
	for _, r := range got {
		line := names[r.Hash] + ":"
		for _, l := range r.Letters {
			line += " " + l.ID()
			if string(l.Value) != l.ID() {
				t.Errorf("letter %s holds %q", l.ID(), l.Value)
			}
		}
		if r.Done {
			line += " done"
		}
		out = append(out, line)
	}
	return strings.Join(out, ", ")
}

// held is a key that was parked at lsn and has n letters since.
func (r *room) held(key string, lsn pglogrepl.LSN, n uint64, known bool) Held {
	hash, _ := KeyHash(&kgo.Record{Key: []byte(key)})
	h := Held{Hash: hash, From: Place{Timeline: 1, LSN: lsn, Ordinal: 1}, Letters: n, Offset: -1}
	if known {
		at := r.at[fmt.Sprintf("%s-%d", key, lsn)]
		h.Partition, h.Offset = at.Partition, at.Offset
	}
	return h
}

func expect(t *testing.T, when, want, got string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: (-want +got)\n%s", when, diff)
	}
}

// A key goes on up to the next letter that nobody has dealt with, and is done
// when there is none; one shelf over its life says the same as a new one.
func TestShelf(t *testing.T) {
	for _, tc := range []struct {
		name       string
		partitions int32
		known      bool // where the first letter is
		anew       bool // a new shelf for each look
	}{
		{"one shelf", 1, true, false},
		{"new shelves", 1, true, true},
		{"nobody knows where", 1, false, false},
		{"nobody knows where, new shelves", 1, false, true},
		{"three partitions", 3, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRoom(t, tc.partitions)
			s := &Shelf{Topic: "dlq", Options: r.options}
			t.Cleanup(func() { s.Close() })
			ask := func(when, want string, held ...Held) {
				t.Helper()
				if tc.anew {
					s.Close()
					s = &Shelf{Topic: "dlq", Options: r.options}
				}
				expect(t, when, want, look(t, s, held...))
			}
			r.letter(t, "a", 5, fault.RowHeader) // an older story, told before
			r.mark(t, "a-5", Replayed, kgo.TryCommit)
			r.letter(t, "a", 10, fault.RowHeader)
			r.letter(t, "a", 20, fault.RowParked)
			r.letter(t, "c", 21, fault.RowHeader)
			r.letter(t, "a", 30, fault.RowHeader)
			r.letter(t, "a", 40, fault.RowParked)
			a := r.held("a", 10, 4, tc.known)
			ask("nothing is dealt with", "", a)
			r.mark(t, "a-30", Purged, kgo.TryCommit)
			ask("the later one is dealt with", "", a)
			r.mark(t, "a-10", Replayed, kgo.TryAbort)
			ask("a replay was aborted", "", a)
			r.mark(t, "a-10", Replayed, kgo.TryCommit)
			ask("the first one is dealt with", "a: a-20 a-40 done", a)
			ask("asked again", "a: a-20 a-40 done", a)
			a.Letters = 5
			if got, err := s.Look(t.Context(), []Held{a}); !fault.Has(err, fault.ParkedGone) || len(got) != 0 {
				t.Errorf("a letter is not there: %v, %v", got, err)
			}
			r.letter(t, "a", 50, fault.RowRefused)
			ask("it is there and blocks", "a: a-20 a-40", a)
			r.mark(t, "a-20", Released, kgo.TryCommit)
			r.mark(t, "a-40", Released, kgo.TryCommit)
			ask("what went on is not offered again", "", a)

			r.letter(t, "b", 60, fault.RowHeader)
			r.letter(t, "b", 61, fault.RowParked)
			b := r.held("b", 60, 2, tc.known)
			r.mark(t, "b-60", Purged, kgo.TryCommit)
			ask("a key that is held since", "b: b-61 done", a, b)
			r.mark(t, "a-50", Replayed, kgo.TryCommit)
			ask("nothing behind it", "a: done, b: b-61 done", a, b)
			ask("a key that is no longer held", "b: b-61 done", b)
		})
	}
}

// Letters that are gone hold back no other key, and with Forgive not even theirs.
func TestShelfWithoutLetters(t *testing.T) {
	r := newRoom(t, 1)
	s := &Shelf{Topic: "dlq", Options: r.options}
	defer s.Close()
	for _, key := range []string{"a", "b"} {
		r.letter(t, key, 10, fault.RowHeader)
		r.letter(t, key, 11, fault.RowParked)
		r.letter(t, key, 12, fault.RowParked)
		r.mark(t, key+"-10", Replayed, kgo.TryCommit)
	}
	a, b := r.held("a", 10, 3, true), r.held("b", 10, 3, true)
	if _, err := kadm.NewClient(r.cl).DeleteRecords(t.Context(), kadm.Offsets{"dlq": {0: {Topic: "dlq", At: r.at["a-11"].Offset}}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Look(t.Context(), []Held{a, b})
	if !fault.Has(err, fault.ParkedGone) || len(got) != 1 || got[0].Hash != b.Hash || len(got[0].Letters) != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
	s.Forgive = true
	expect(t, "forgiven", "a: a-11 a-12 done, b: b-11 b-12 done", look(t, s, a, b))
}

// What cannot be sent of one key does not use up the room of the others, and
// neither do large letters the memory.
func TestShelfTakesTurns(t *testing.T) {
	r := newRoom(t, 1)
	s := &Shelf{Topic: "dlq", Options: r.options, MaxBytes: 1}
	defer s.Close()
	for _, key := range []string{"a", "b"} {
		r.letter(t, key, 10, fault.RowHeader)
		r.letter(t, key, 11, fault.RowParked)
		r.letter(t, key, 12, fault.RowParked)
		r.mark(t, key+"-10", Replayed, kgo.TryCommit)
	}
	a, b := r.held("a", 10, 3, true), r.held("b", 10, 3, true)
	expect(t, "first", "a: a-11", look(t, s, a, b))
	expect(t, "second", "b: b-11", look(t, s, a, b))
	expect(t, "third", "a: a-11", look(t, s, a, b))
}

// Another relay may have letters of the same key in the same topic, and Connect
// such that are none of ours.
func TestShelfIgnoresOthers(t *testing.T) {
	r := newRoom(t, 1)
	s := &Shelf{Topic: "dlq", Relay: "mine", Options: r.options}
	defer s.Close()
	write := func(relay, id string, reason Reason, lsn pglogrepl.LSN) {
		rec := (&Letter{
			Key: []byte("a"), Value: []byte(id), Reason: reason, Relay: relay, Attempts: 1, FirstAt: testTime, At: testTime,
			Headers: []kgo.RecordHeader{
				{Key: outbox.HeaderID, Value: []byte(id)},
				{Key: outbox.HeaderTimeline, Value: []byte("1")},
				{Key: outbox.HeaderLSN, Value: []byte(lsn.String())},
				{Key: outbox.HeaderOrdinal, Value: []byte("1")},
			},
		}).Record("dlq", 0)
		r.transaction(t, kgo.TryCommit, rec)
		r.at[id] = Spot{Topic: "dlq", Partition: rec.Partition, Offset: rec.Offset}
	}
	write("mine", "a-10", Decode, 10)
	write("theirs", "x", Parked, 11)
	r.transaction(t, kgo.TryCommit, &kgo.Record{Topic: "dlq", Key: []byte("a"), Headers: []kgo.RecordHeader{{Key: headerErrTopic, Value: []byte("y")}}})
	write("mine", "a-12", Parked, 12)
	r.mark(t, "a-10", Replayed, kgo.TryCommit)
	expect(t, "mine alone", "a: a-12 done", look(t, s, r.held("a", 10, 2, true)))
}

// What one look returns is bounded, and the rest comes with the next.
func TestShelfIsBounded(t *testing.T) {
	r := newRoom(t, 1)
	s := &Shelf{Topic: "dlq", Options: r.options, MaxLetters: 2}
	defer s.Close()
	for i, cause := range []*fault.Code{fault.RowHeader, fault.RowParked, fault.RowParked, fault.RowParked} {
		r.letter(t, "a", pglogrepl.LSN(10+i), cause)
	}
	r.mark(t, "a-10", Replayed, kgo.TryCommit)
	a := r.held("a", 10, 4, true)
	expect(t, "first", "a: a-11 a-12", look(t, s, a))
	r.mark(t, "a-11", Released, kgo.TryCommit)
	r.mark(t, "a-12", Released, kgo.TryCommit)
	expect(t, "second", "a: a-13 done", look(t, s, a))
}

// A letter of a consumer blocks nothing.
func TestShelfIgnoresConsumers(t *testing.T) {
	r := newRoom(t, 1)
	s := &Shelf{Topic: "dlq", Options: r.options}
	defer s.Close()
	r.letter(t, "a", 10, fault.RowHeader)
	l, err := Parse((&Letter{
		Key: []byte("a"), Reason: Handler, Stage: TaskPut, Group: "billing", Attempts: 1, FirstAt: testTime, At: testTime,
		Headers: []kgo.RecordHeader{
			{Key: outbox.HeaderID, Value: []byte("a-11")},
			{Key: outbox.HeaderTimeline, Value: []byte("1")},
			{Key: outbox.HeaderLSN, Value: []byte("0/B")},
			{Key: outbox.HeaderOrdinal, Value: []byte("1")},
		},
	}).Record("dlq", 0))
	if err != nil {
		t.Fatal(err)
	}
	r.transaction(t, kgo.TryCommit, l.Record("dlq", 0))
	r.mark(t, "a-10", Replayed, kgo.TryCommit)
	expect(t, "after the replay", "a: done", look(t, s, r.held("a", 10, 1, true)))
}
