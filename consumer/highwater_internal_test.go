package consumer

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
)

func at(source string, tli int32, lsn pglogrepl.LSN, ord uint64, commit int) *Event {
	return &Event{Position: Position{source, tli, lsn, ord}, CommitTime: time.Unix(int64(commit), 0)}
}

func TestHighWaterVerdicts(t *testing.T) {
	var hw highWater
	for i, step := range []struct {
		ev   *Event
		want verdict
	}{
		{at("a", 1, 100, 1, 10), fresh},
		{at("a", 1, 100, 1, 10), stale},
		{at("a", 1, 100, 2, 10), fresh}, // the same transaction, next row
		{at("a", 1, 100, 1, 10), stale},
		{at("b", 1, 50, 1, 5), fresh},  // another source
		{at("a", 1, 101, 1, 9), fresh}, // clocks may step back
		{at("a", 1, 90, 1, 10), stale},
		{at("a", 2, 80, 1, 11), fresh}, // a failover that lost 80 to 101 of the old timeline
		{at("a", 1, 200, 1, 11), stale},
		{at("a", 1, 10, 1, 12), rewound}, // committed later than all that was seen
		{at("a", 1, 11, 1, 12), fresh},
		{at("b", 1, 50, 1, 5), stale},
		{&Event{}, unknown},
	} {
		if _, got := hw.see(step.ev); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
}

func TestHighWaterIsBounded(t *testing.T) {
	var hw highWater
	for i := range maxSources + 10 {
		_, v := hw.see(at("source-"+strconv.Itoa(i), 1, 1, 1, i))
		if want := fresh; i >= maxSources {
			want = unknown
			if v != want {
				t.Fatalf("source %d: %d", i, v)
			}
		}
	}
	text := hw.encode()
	if len(text) > maxMetadata {
		t.Errorf("%d bytes of metadata", len(text))
	}
	kept, ok := decodeMarks(text)
	if !ok || len(kept.marks) != keptSources {
		t.Fatalf("%v %d", ok, len(kept.marks))
	}
	// The newest survive.
	for i := maxSources - keptSources; i < maxSources; i++ {
		if kept.of("source-"+strconv.Itoa(i)) == nil {
			t.Errorf("source %d is gone", i)
		}
	}
}

func TestRecentIsBounded(t *testing.T) {
	r := recent{max: 3}
	for i, step := range []struct {
		text string
		want bool
	}{{"a", true}, {"b", true}, {"a", false}, {"c", true}, {"d", true}, {"a", true}, {"c", false}, {"b", true}} {
		if got := r.add(step.text); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	if len(r.seen) > 3 || len(r.ring) > 3 {
		t.Errorf("%d, %d", len(r.seen), len(r.ring))
	}
}

func FuzzMarks(f *testing.F) {
	var hw highWater
	hw.see(at("shop/relay", 1, 0x1A2B3C, 4, 1700000000))
	hw.see(at("a;b,c\xff", 9, 1, 1, 3))
	f.Add(hw.encode())
	f.Add("obx1")
	f.Add("consumer-1-2c0d9f")
	f.Add("obx1;c2hvcA,1,0,0,0;c2hvcA,1,0,0,0")
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := decodeMarks(s)
		if !ok {
			return
		}
		back, ok := decodeMarks(got.encode())
		if !ok {
			t.Fatalf("%q is not read back", got.encode())
		}
		for _, m := range back.marks {
			if diff := cmp.Diff(*got.of(m.source), m, cmp.AllowUnexported(mark{})); diff != "" {
				t.Error(diff)
			}
		}
	})
}
