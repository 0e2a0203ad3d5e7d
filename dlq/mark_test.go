package dlq

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

func testMarks() map[string]Mark {
	spot := Spot{Topic: "outbox.events.dlq", Offset: 12}
	return map[string]Mark{
		"replayed": {ID: "0198c0de", Action: Replayed, At: testTime, By: "ops@host", Attempts: 2, Letter: spot, Topic: "orders"},
		"purged":   {ID: "0198c0de", Group: "billing", Action: Purged, At: testTime, By: "ops@host", Letter: spot, Because: "obsolete"},
		"released": {ID: "a@b", Action: Released, At: testTime, By: "relay", Letter: spot, Topic: "orders"},
		"deferred": {
			ID: "0198c0de", Action: Deferred, At: testTime, By: "scheduler@host", Attempts: 3, Letter: spot, NextAt: testTime.Add(time.Minute),
			Code: "OBX-5005", Also: []Spot{{Topic: "outbox.events.dlq", Partition: 1, Offset: 7}},
		},
		"without_id": {Group: "billing", Action: Purged, At: testTime, Letter: Spot{Partition: 1, Offset: 5}},
	}
}

func TestMarkGolden(t *testing.T) {
	for name, m := range testMarks() {
		t.Run(name, func(t *testing.T) {
			r, err := m.Record("outbox.events.dlq.state")
			if err != nil {
				t.Fatal(err)
			}
			got := string(r.Key) + "\n" + string(r.Value) + "\n"
			path := filepath.Join("testdata", "mark_"+name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the form of a mark is public; if it may change, record it with -update\n%s", diff)
			}
			back, err := ParseMark(r)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m, back); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseMarkRefuses(t *testing.T) {
	for name, r := range map[string]*kgo.Record{
		"nothing":          {},
		"no JSON":          {Key: []byte("a"), Value: []byte("x")},
		"a later version":  {Key: []byte("a"), Value: []byte(`{"v":2,"id":"a","action":"purged"}`)},
		"no version":       {Key: []byte("a"), Value: []byte(`{"id":"a","action":"purged"}`)},
		"unknown action":   {Key: []byte("a"), Value: []byte(`{"v":1,"id":"a","action":"lost"}`)},
		"another key":      {Key: []byte("b"), Value: []byte(`{"v":1,"id":"a","action":"purged"}`)},
		"the group's key":  {Key: []byte("a"), Value: []byte(`{"v":1,"id":"a","group":"g","action":"purged"}`)},
		"a negative place": {Key: []byte("a"), Value: []byte(`{"v":1,"id":"a","action":"purged","letter":{"offset":-1}}`)},
		"a negative other": {Key: []byte("a"), Value: []byte(`{"v":1,"id":"a","action":"purged","also":[{"partition":-1}]}`)},
	} {
		if m, err := ParseMark(r); err == nil {
			t.Errorf("%s was read as %+v", name, m)
		}
	}
	if _, err := (&Mark{ID: "a"}).Record("t"); err == nil {
		t.Error("a mark without an action was written")
	}
}

func TestCloses(t *testing.T) {
	at := func(a Action, offset int64, also ...Spot) Mark {
		return Mark{Action: a, Letter: Spot{Partition: 1, Offset: offset}, Also: also}
	}
	for _, tc := range []struct {
		mark      Mark
		partition int32
		offset    int64
		want      bool
	}{
		{at(Replayed, 5), 1, 5, true},
		{at(Replayed, 5), 1, 4, true},
		{at(Replayed, 5), 1, 6, false},
		{at(Replayed, 5), 0, 5, false},
		{at(Purged, 5), 1, 5, true},
		{at(Released, 5), 1, 5, true},
		{at(Deferred, 5), 1, 5, false},
		{at(Deferred, 5), 1, 4, true},
		{at(Deferred, 5), 1, 6, false},
		{at(Replayed, 5, Spot{Partition: 0, Offset: 9}), 0, 9, true},
		{at(Replayed, 5, Spot{Partition: 0, Offset: 9}), 0, 10, false},
		{at(Deferred, 5, Spot{Partition: 1, Offset: 2}), 1, 5, false},
	} {
		if got := tc.mark.Closes(tc.partition, tc.offset); got != tc.want {
			t.Errorf("%+v: %d/%d: got %t", tc.mark, tc.partition, tc.offset, got)
		}
	}
}

// Whatever marks of one key follow each other, what one has closed stays so.
func TestJoinKeepsClosed(t *testing.T) {
	type spot struct {
		partition int32
		offset    int64
	}
	steps := []Mark{
		{ID: "a", Action: Replayed, Letter: Spot{Partition: 0, Offset: 3}},
		{ID: "a", Action: Replayed, Letter: Spot{Partition: 1, Offset: 2}},
		{ID: "a", Action: Deferred, Letter: Spot{Partition: 0, Offset: 8}},
		{ID: "a", Action: Deferred, Letter: Spot{Partition: 0, Offset: 8}},
		{ID: "a", Action: Purged, Letter: Spot{Partition: 1, Offset: 9}},
		{ID: "a", Action: Replayed, Letter: Spot{Partition: 0, Offset: 8}},
		{ID: "a", Action: Replayed, Letter: Spot{Partition: 0, Offset: 5}},
	}
	all, closed := marks{}, map[spot]bool{}
	letter := func(s spot) Status {
		l := Letter{Headers: []kgo.RecordHeader{{Key: "id", Value: []byte("a")}}}
		return all.of(&l, Spot{Partition: s.partition, Offset: s.offset})
	}
	for i, m := range steps {
		all.join(&m)
		all.set(&m)
		for p := range int32(2) {
			for o := range int64(12) {
				s := spot{p, o}
				open := letter(s).Open
				if closed[s] && open {
					t.Fatalf("step %d opens %v again: %+v", i, s, m)
				}
				closed[s] = closed[s] || !open
			}
		}
		own := spot{m.Letter.Partition, m.Letter.Offset}
		if closed[own] != (m.Action != Deferred) {
			t.Fatalf("step %d: its own letter is closed: %t", i, closed[own])
		}
	}
}

func TestSchedule(t *testing.T) {
	s := Schedule{Base: time.Minute, Max: 5 * time.Minute, Attempts: 6}
	for attempts, want := range []time.Duration{0, time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute, 0, 0} {
		if got, ok := s.Wait(attempts); got != want || ok != (want > 0) {
			t.Errorf("after %d attempts: %s, %t", attempts, got, ok)
		}
	}
	for _, never := range []Schedule{{}, {Base: time.Minute, Attempts: 1, Max: time.Hour}} {
		if got, ok := never.Wait(1); ok {
			t.Errorf("%+v waits %s", never, got)
		}
	}
	if got, _ := (Schedule{Base: time.Hour, Max: 1<<63 - 1, Attempts: 1000}).Wait(999); got <= 0 {
		t.Errorf("the wait has run over: %s", got)
	}
	l := consumerLetter()
	l.Attempts = 2
	if s.Plan(&l); !l.NextAt.Equal(l.At.Add(2*time.Minute)) || l.Backoff != 2*time.Minute {
		t.Errorf("next at %s", l.NextAt)
	}
	l.Attempts = 6
	if s.Plan(&l); !l.NextAt.IsZero() || l.Backoff != 0 {
		t.Errorf("next at %s", l.NextAt)
	}
}

func FuzzParseMark(f *testing.F) {
	for _, m := range testMarks() {
		r, err := m.Record("t")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(r.Key, r.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		m, err := ParseMark(&kgo.Record{Key: key, Value: value})
		if err != nil {
			return
		}
		r, err := m.Record("t")
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		back, err := ParseMark(r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, back); diff != "" {
			t.Error(diff)
		}
	})
}

// A letter may come from anywhere: reading it never fails but with an error,
// and what was read is written and read again as the same.
func FuzzParse(f *testing.F) {
	for _, h := range testLetterRecord().Headers {
		f.Add([]byte("k"), []byte("v"), h.Key, h.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte, name string, header []byte) {
		r := testLetterRecord()
		r.Key, r.Value = key, value
		r.Headers = append([]kgo.RecordHeader{{Key: name, Value: header}}, r.Headers...)
		l, err := Parse(r)
		if err != nil {
			return
		}
		back, err := Parse(l.Record("t", 0))
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		once := back
		again, err := Parse(back.Record("t", 0))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(once, again); diff != "" {
			t.Error(diff)
		}
	})
}

func testLetterRecord() *kgo.Record {
	l := consumerLetter()
	return l.Record("t", 0)
}

// The id of a mark is bounded, whatever the table holds.
func TestMarkOfLongID(t *testing.T) {
	long := strings.Repeat("x", 600<<10)
	m := Mark{ID: long, Action: Purged, At: testTime.Truncate(time.Microsecond), Letter: Spot{Topic: "dlq", Partition: 1, Offset: 7}}
	r, err := m.Record("dlq.state")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.Key) + len(r.Value); n > 4096 {
		t.Fatalf("%d bytes", n)
	}
	got, err := ParseMark(r)
	if err != nil {
		t.Fatal(err)
	}
	all := marks{}
	all.set(&got)
	l := Letter{Headers: []kgo.RecordHeader{{Key: outbox.HeaderID, Value: []byte(long)}}}
	if all.of(&l, m.Letter).Open {
		t.Error("the letter is open")
	}
}
