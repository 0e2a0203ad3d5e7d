package relay

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// refusal is what a broker says to a batch: it names nobody.
func (w *world) refusal(records []*kgo.Record) error {
	if w.refuses == nil {
		return nil
	}
	for _, r := range records {
		if err := w.refuses(r); err != nil {
			code := fault.RowRefused
			if errors.Is(err, errTooLarge) {
				code = fault.RowTooLarge
			}
			return &sink.RefusedError{Suspects: records, Code: code, Err: err}
		}
	}
	return nil
}

var errTooLarge = errors.New("MESSAGE_TOO_LARGE")

func (w *world) probe(_ context.Context, _ sink.Session, records []*kgo.Record) (refused, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.call("Probe %d", len(records))
	if errs := w.errs["Probe"]; len(errs) > 0 {
		w.errs["Probe"] = errs[1:]
		return nil, errs[0]
	}
	return w.refusal(records), nil
}

// refusing refuses the events of these rows.
func refusing(ids ...string) func(*kgo.Record) error {
	return func(r *kgo.Record) error {
		if r.Topic == "events" && slices.Contains(ids, string(r.Value)) {
			return errors.New("INVALID_TIMESTAMP")
		}
		return nil
	}
}

func (w *world) lettersOf(reason dlq.Reason) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, rec := range w.post().letters {
		if l, err := dlq.Parse(rec); err == nil && l.Reason == reason {
			out = append(out, l.ID())
		}
	}
	return out
}

// Exactly the records that are refused by themselves become letters; the rest
// of their transactions arrives in order and whole.
func TestRefusedRecords(t *testing.T) {
	for _, tc := range []struct {
		name string
		ids  []string
		errs []error
	}{
		{"one", []string{"701/3"}, nil},
		{"two of one group", []string{"701/1", "701/4"}, nil},
		{"all of one transaction", []string{"700/1", "700/2"}, nil},
		{"in two transactions", []string{"700/2", "702/1"}, nil},
		{"and the search fails twice", []string{"701/3"}, []error{fault.New(fault.KafkaUnreachable, "gone"), nil, fault.New(fault.Fenced, "gone")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, []int{2, 4, 2}, func(t *testing.T, w *world, r *Relay) {
				r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) {
					return keyed{poison: func(string) bool { return false }}, nil
				}
				r.Letters, r.Probe = letters(false, w), w.probe
				w.refuses, w.errs["Probe"] = refusing(tc.ids...), tc.errs
				stop := w.start(t, r)
				settle(time.Minute)
				same(t, "letters", tc.ids, w.lettersOf(dlq.Refused))
				same(t, "rows", allIDs(w.history), w.published())
				for _, c := range w.read() {
					if c.ck.Pos.Cut() {
						t.Errorf("cut at %s", c.ck.Pos)
					}
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// One batch that is too large is not looked into: the next session may see
// another limit. A second one is.
func TestTooLargeOnceAndTwice(t *testing.T) {
	bubble(t, []int{2}, func(t *testing.T, w *world, r *Relay) {
		r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) {
			return keyed{poison: func(string) bool { return false }}, nil
		}
		r.Letters, r.Probe = letters(false, w), w.probe
		said := false
		w.refuses = func(r *kgo.Record) error {
			if said {
				return nil
			}
			said = true
			return errTooLarge
		}
		stop := w.start(t, r)
		settle(time.Second)
		same(t, "letters", []string(nil), w.lettersOf(dlq.Refused))
		same(t, "rows", allIDs(w.history), w.published())
		if calls := w.called(); slices.Contains(calls, "Probe 2") {
			t.Errorf("calls: %v", calls)
		}
		w.mu.Lock()
		w.refuses = func(r *kgo.Record) error {
			if r.Topic == "events" && string(r.Value) == "701/2" {
				return errTooLarge
			}
			return nil
		}
		w.mu.Unlock()
		w.grow(transactions(0, 3)[1:]...)
		settle(time.Minute)
		same(t, "letters", []string{"701/2"}, w.lettersOf(dlq.TooLarge))
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A parked event can be refused when its turn comes, as for being too old by
// then: it becomes a letter anew, which blocks what is behind it.
func TestRefusedAtRelease(t *testing.T) {
	bubble(t, []int{4, 4, 4}, func(t *testing.T, w *world, r *Relay) {
		r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) {
			return keyed{poison: func(id string) bool { return id == "700/1" }}, nil // of key b
		}
		r.Letters, r.Probe = letters(true, w), w.probe
		w.refuses = refusing("701/4")
		stop := w.start(t, r)
		settle(2 * time.Second)
		w.replayFirst()
		settle(time.Minute)
		same(t, "letters", []string{"701/4"}, w.lettersOf(dlq.Refused))
		same(t, "events of the key", []string{"700/1"}, w.perKey()["b"])
		w.mu.Lock()
		w.refuses = nil
		w.mu.Unlock()
		w.replayFirst()
		settle(2 * time.Second)
		same(t, "events of the key", []string{"700/1", "701/4", "702/3"}, w.perKey()["b"])
		if got := w.newest().Parked; len(got) != 0 {
			t.Errorf("parked %+v", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestBisect(t *testing.T) {
	var all []*kgo.Record
	for n := range 100 {
		all = append(all, &kgo.Record{Value: []byte(strconv.Itoa(n))})
	}
	for _, want := range [][]string{nil, {"0"}, {"99"}, {"50"}, {"0", "1", "2"}, {"13", "57", "58", "99"}} {
		tries := 0
		got, err := bisect(all, func(part []*kgo.Record) (bool, error) {
			tries++
			return slices.ContainsFunc(part, func(r *kgo.Record) bool { return slices.Contains(want, string(r.Value)) }), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range got {
			names = append(names, string(r.Value))
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Error(diff)
		}
		if most := 1 + 15*len(want); tries > most {
			t.Errorf("%v: %d tries, at most %d", want, tries, most)
		}
	}
}
