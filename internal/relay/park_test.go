package relay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

const lettersTopic = "letters"

// keyed gives rows keys, and makes letters of those that are poison.
type keyed struct{ poison func(id string) bool }

// keyOf spreads rows over three keys and none.
func keyOf(id string) string {
	var xid, ord int
	_, _ = fmt.Sscanf(id, "%d/%d", &xid, &ord)
	return [...]string{"a", "b", "c", ""}[(xid+ord)%4]
}

func (k keyed) Translate(_ context.Context, t *replication.Tx, dst []*kgo.Record) ([]*kgo.Record, uint64, error) {
	var letters uint64
	for i := range t.Rows {
		id := string(t.Rows[i].Values[0])
		rec := &kgo.Record{Topic: "events", Key: []byte(keyOf(id)), Value: []byte(id), Headers: []kgo.RecordHeader{
			{Key: outbox.HeaderID, Value: []byte(id)},
			{Key: outbox.HeaderTimeline, Value: []byte("1")},
			{Key: outbox.HeaderLSN, Value: []byte(t.CommitLSN.String())},
			{Key: outbox.HeaderOrdinal, Value: strconv.AppendUint(nil, t.Rows[i].Ord, 10)},
			{Key: outbox.HeaderCheckpoint},
		}}
		if k.poison(id) {
			rec = letterOf(rec, fault.New(fault.RowHeader, "poison"))
			letters++
		}
		dst = append(dst, rec)
	}
	return dst, letters, nil
}

func letterOf(rec *kgo.Record, cause error) *kgo.Record {
	l := dlq.New(rec, cause, time.Now())
	return l.Record(lettersTopic, 0)
}

func writeLetter(_ context.Context, _ sink.Session, rec *kgo.Record, cause error) (*kgo.Record, error) {
	return letterOf(rec, cause), nil
}

// mail is the two topics of letters as a read_committed reader sees them.
type mail struct {
	letters []*kgo.Record // in the order of their rows
	closed  map[int64]bool
}

// post reads what was committed and gives each letter an offset.
func (w *world) post() mail {
	m := mail{closed: map[int64]bool{}}
	for _, c := range w.log {
		for _, r := range c.records {
			switch r.Topic {
			case lettersTopic:
				seen := *r
				seen.Offset = int64(len(m.letters))
				m.letters = append(m.letters, &seen)
			case dlq.StateTopic(lettersTopic):
				mark, err := dlq.ParseMark(r)
				if err != nil {
					w.violate("%v", err)
				}
				if m.closed[mark.Letter.Offset] {
					w.violate("letter %d is closed twice", mark.Letter.Offset)
				}
				m.closed[mark.Letter.Offset] = true
			}
		}
	}
	return m
}

// look does what dlq.Shelf does, and takes its time over it.
func (w *world) look(_ context.Context, held []dlq.Held) ([]dlq.Release, error) {
	w.mu.Lock()
	takes := time.Duration(w.rng.IntN(300)) * time.Millisecond
	defer time.Sleep(takes)
	defer w.mu.Unlock()
	m := w.post()
	var out []dlq.Release
	for _, h := range held {
		r := dlq.Release{Hash: h.Hash, Done: true}
		for _, rec := range slices.SortedStableFunc(slices.Values(m.letters), byPlace) {
			hash, _ := dlq.KeyHash(rec)
			place, _ := dlq.PlaceOf(rec.Headers)
			if hash != h.Hash || place.Compare(h.From) < 0 {
				continue
			}
			r.Seen++
			l, err := dlq.Parse(rec)
			switch {
			case err != nil:
				return nil, err
			case m.closed[rec.Offset] || !r.Done:
			case l.Reason != dlq.Parked || len(r.Letters) == max(w.most, 3):
				r.Done = false
			default:
				r.Letters = append(r.Letters, dlq.HeldLetter{Letter: l, At: dlq.Spot{Topic: lettersTopic, Offset: rec.Offset}})
			}
		}
		if r.Done || len(r.Letters) > 0 {
			out = append(out, r)
		}
	}
	return out, nil
}

func byPlace(a, b *kgo.Record) int {
	p, _ := dlq.PlaceOf(a.Headers)
	q, _ := dlq.PlaceOf(b.Headers)
	return p.Compare(q)
}

// openBefore tells whether an earlier letter of the same key is open. Whoever
// replays the later one first breaks the order himself.
func (m mail) openBefore(i int) bool {
	for _, rec := range m.letters[:i] {
		if string(rec.Key) == string(m.letters[i].Key) && !m.closed[rec.Offset] {
			return true
		}
	}
	return false
}

// resolve is a person who replays or purges one blocking letter.
func (w *world) resolve(rng *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.post()
	for _, i := range rng.Perm(len(m.letters)) {
		rec := m.letters[i]
		l, _ := dlq.Parse(rec)
		if l.Reason == dlq.Parked || m.closed[rec.Offset] || m.openBefore(i) {
			continue
		}
		w.close(rec, l, rng.IntN(3) > 0)
		return
	}
}

// replayFirst is a person who replays the first letter that blocks.
func (w *world) replayFirst() {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.post()
	for _, rec := range m.letters {
		if l, _ := dlq.Parse(rec); l.Reason != dlq.Parked && !m.closed[rec.Offset] {
			w.close(rec, l, true)
			return
		}
	}
}

// close replays or purges a letter, in one transaction with the mark.
func (w *world) close(rec *kgo.Record, l dlq.Letter, replay bool) {
	c := committed{ck: w.last()}
	mark := dlq.Mark{ID: l.ID(), Action: dlq.Purged, At: time.Now(), Letter: dlq.Spot{Topic: lettersTopic, Offset: rec.Offset}}
	if replay {
		replay, err := l.Replay(time.Now())
		if err != nil {
			w.violate("%v", err)
			return
		}
		mark.Action = dlq.Replayed
		c.records = append(c.records, replay)
	}
	r, err := mark.Record(dlq.StateTopic(lettersTopic))
	if err != nil {
		w.violate("%v", err)
		return
	}
	c.records = append(c.records, r)
	w.log = append(w.log, c)
}

// perKey are the events of each key in the order in which consumers see them.
func (w *world) perKey() map[string][]string {
	out := map[string][]string{}
	for _, c := range w.log {
		for _, r := range c.records {
			if r.Topic == "events" {
				out[string(r.Key)] = append(out[string(r.Key)], string(r.Value))
			}
		}
	}
	return out
}

// purged are the letters that were given up.
func (w *world) purged() []string {
	var out []string
	for _, c := range w.log {
		for _, r := range c.records {
			if m, err := dlq.ParseMark(r); r.Topic == dlq.StateTopic(lettersTopic) && err == nil && m.Action == dlq.Purged {
				out = append(out, m.ID)
			}
		}
	}
	return out
}

func poisoned(rng *rand.Rand) func(string) bool {
	salt := rng.IntN(100)
	return func(id string) bool {
		var xid, ord int
		_, _ = fmt.Sscanf(id, "%d/%d", &xid, &ord)
		return (xid*7+ord*3+salt)%5 == 0
	}
}

// playParked is play with poison, parking, and a person who cleans up.
func playParked(t *testing.T, seed uint64, at func(step int) verdict) (steps int) {
	t.Helper()
	if mutated() {
		t.Skip("the order of calls is wrong on purpose in this build")
	}
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(randomHistory(rng))
		w.rng, w.parts = rng, 1+rng.IntN(4)
		w.at = func(string) verdict { steps++; return at(steps) }
		w.stall = func(ctx context.Context) error { // a commit may outlast several looks
			w.mu.Lock()
			takes := []time.Duration{0, 0, 0, 100 * time.Millisecond, 3 * time.Second}[w.rng.IntN(5)]
			w.mu.Unlock()
			return pause(ctx, takes)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		translator := keyed{poison: poisoned(rng)}
		var replicas sync.WaitGroup
		for range 2 {
			replicas.Go(func() {
				for ctx.Err() == nil {
					r := w.relay()
					r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) { return translator, nil }
					r.Letters = &Letters{Topic: lettersTopic, Park: true, Write: writeLetter, Look: w.look}
					if err := r.Run(ctx); err != nil && !fault.Has(err, fault.Panicked) {
						w.mu.Lock()
						w.violate("halted: %v", err)
						w.mu.Unlock()
						cancel()
					}
				}
			})
		}
		person := rand.New(rand.NewPCG(seed, 4))
		done := func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			m := w.post()
			return w.slot >= w.end() && len(m.closed) == len(m.letters) && len(w.last().Parked) == 0
		}
		for !done() && ctx.Err() == nil {
			time.Sleep(time.Duration(person.IntN(1500)) * time.Millisecond)
			w.resolve(person)
		}
		if ctx.Err() != nil {
			t.Errorf("not done after an hour: slot at %s of %s, parked %v", w.slot, w.end(), w.last().Parked)
		}
		cancel()
		replicas.Wait()
		w.check(t)
		want, purged := map[string][]string{}, w.purged()
		for _, id := range allIDs(w.history) {
			if !slices.Contains(purged, id) {
				want[keyOf(id)] = append(want[keyOf(id)], id)
			}
		}
		got := w.perKey()
		// Events without a key have no order to keep.
		slices.Sort(got[""])
		slices.Sort(want[""])
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("seed %d, by key (-committed +published):\n%s", seed, diff)
		}
	})
	return steps
}

// Order per key survives poison, whatever goes wrong at whichever step: every
// event that nobody has given up arrives once, in the order of its key, also
// those that had to wait.
func TestModelParking(t *testing.T) {
	seeds := uint64(400)
	if testing.Short() {
		seeds = 60
	}
	for seed := range seeds {
		faults := rand.New(rand.NewPCG(seed, 5))
		left := int(seed % 20)
		playParked(t, seed, func(int) verdict {
			if left == 0 || faults.IntN(8) != 0 {
				return pass
			}
			left--
			return verdict(faults.IntN(int(verdicts)))
		})
		if t.Failed() {
			return
		}
	}
}

func letters(park bool, w *world) *Letters {
	return &Letters{Topic: lettersTopic, Park: park, Write: writeLetter, Look: w.look}
}

// What was parked before Park was switched off is released all the same.
func TestParkingSwitchedOff(t *testing.T) {
	bubble(t, []int{4, 4, 4}, func(t *testing.T, w *world, r *Relay) {
		r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) {
			return keyed{poison: func(id string) bool { return id == "700/1" }}, nil // of key b
		}
		r.Letters = letters(true, w)
		stop := w.start(t, r)
		settle(2 * time.Second)
		if got := w.newest().Parked; len(got) != 1 || got[0].Letters != 3 {
			t.Fatalf("parked %+v", got)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		next := w.relay()
		next.NewTranslator = r.NewTranslator
		next.Letters = letters(false, w)
		stop = w.start(t, next)
		settle(2 * time.Second)
		if got := w.newest().Parked; len(got) != 1 {
			t.Fatalf("parked %+v", got)
		}
		w.resolve(rand.New(rand.NewPCG(1, 1)))
		settle(2 * time.Second)
		if got := w.newest().Parked; len(got) != 0 {
			t.Errorf("parked %+v", got)
		}
		same(t, "events of the key", []string{"700/1", "701/4", "702/3"}, w.perKey()["b"])
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// More letters in a minute than are allowed halt the relay before they are
// written; those that only wait do not count.
func TestLetterFlood(t *testing.T) {
	for _, tc := range []struct {
		name   string
		most   int
		poison func(string) bool
		park   bool
		halts  bool
	}{
		{"as many as allowed", 3, func(id string) bool { return id < "700/4" }, false, false},
		{"one more", 2, func(id string) bool { return id < "700/4" }, false, true},
		{"any number", 0, func(string) bool { return true }, false, false},
		{"those that wait", 1, func(id string) bool { return id == "700/1" }, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, []int{5, 5}, func(t *testing.T, w *world, r *Relay) {
				r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) { return keyed{poison: tc.poison}, nil }
				r.Letters = letters(tc.park, w)
				r.Letters.MaxPerMinute = tc.most
				stop := w.start(t, r)
				settle(2 * time.Second)
				err := stop()
				if tc.halts != fault.Has(err, fault.LetterFlood) || !tc.halts && err != nil {
					t.Errorf("Run: %v", err)
				}
				if tc.halts != (len(w.published()) == 0) {
					t.Errorf("published %v", w.published())
				}
			})
		})
	}
}

// The minute moves on.
func TestLetterRate(t *testing.T) {
	var r letterRate
	now := time.Unix(1_700_000_000, 0)
	for _, step := range []struct {
		after   time.Duration
		letters int
		refused bool
	}{{0, 6, false}, {30 * time.Second, 4, false}, {29 * time.Second, 1, true}, {time.Second, 5, false}, {time.Second, 1, true}, {time.Hour, 10, false}, {0, 0, false}} {
		now = now.Add(step.after)
		if err := r.check(now, 100, step.letters, 10); fault.Has(err, fault.LetterFlood) != step.refused {
			t.Errorf("%+v: %v", step, err)
		}
		r.count(now, 100, step.letters)
	}
}

func TestForbiddenLetters(t *testing.T) {
	bubble(t, []int{1, 3}, func(t *testing.T, w *world, r *Relay) {
		r.NewTranslator = func(replication.State, sink.Session) (RowTranslator, error) {
			return keyed{poison: func(id string) bool { return id == "701/2" }}, nil
		}
		r.Letters = letters(false, w)
		r.Letters.Forbid = true
		r.Limits.Size = 1
		stop := w.start(t, r)
		settle(time.Second)
		err := stop()
		if !fault.Has(err, fault.LetterForbidden) {
			t.Fatalf("Run: %v", err)
		}
		same(t, "message", "OBX-4042 row 701/2 of the transaction at 0/280, change 2: OBX-2005 poison", err.Error())
	})
}

func TestParkedFull(t *testing.T) {
	r := &Relay{Letters: &Letters{Topic: lettersTopic, Park: true}}
	base := checkpoint.Checkpoint{}
	for n := range maxParked {
		base.Parked = append(base.Parked, checkpoint.ParkedKey{Hash: strconv.Itoa(n), Letters: 1})
	}
	tr := r.newTriage(base, sink.Session{})
	recs, n, err := keyed{poison: func(string) bool { return true }}.Translate(t.Context(), &replication.Tx{
		CommitLSN: 1, Rows: []replication.Row{{Ord: 1, Values: [][]byte{[]byte("700/1")}}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.sort(t.Context(), &group{records: recs, letters: n}); !fault.Has(err, fault.ParkedFull) {
		t.Errorf("got %v", err)
	}
	// A letter of a key that is parked already is welcome.
	tr.parked["0"].Hash, _ = dlq.KeyHash(recs[0])
	tr.parked[tr.parked["0"].Hash] = tr.parked["0"]
	if err := tr.sort(t.Context(), &group{records: recs, letters: n}); err != nil {
		t.Error(err)
	}
}
