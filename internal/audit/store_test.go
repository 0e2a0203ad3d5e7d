package audit

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// random is an entry with every field that its kind keeps.
func random(r *rand.Rand, id string) entry {
	e := entry{kind: kind(1 + r.IntN(4)), id: id}
	if e.kind == kindPending {
		return e
	}
	e.topic, e.key, e.value, e.headers = r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()
	e.partition = r.Int32()
	if e.kind == kindRow {
		e.flags = uint16([]int{0, rejected, hasPartition}[r.IntN(3)])
		e.created = r.Int64() - r.Int64()
		return e
	}
	e.offset, e.log = r.Int64(), r.Uint32()
	e.place = place{r.Int32(), r.Uint64(), r.Uint64()}
	if r.IntN(2) == 0 {
		e.flags = late | newer | noValue
		e.before = place{r.Int32(), r.Uint64(), r.Uint64()}
	}
	return e
}

// What goes into the store comes out, all of an id together, whether it went
// through files or not; and nothing is left on the disk.
func TestStoreKeepsEverything(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 10, 400_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, err := newStore(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			r := rand.New(rand.NewPCG(1, uint64(n)))
			var want []entry
			for range n {
				e := random(r, fmt.Sprint("id-", r.IntN(n)))
				want = append(want, e)
				if err := s.add(&e); err != nil {
					t.Fatal(err)
				}
			}
			files, _ := os.ReadDir(dir)
			if spilled := len(files) > 0; spilled != (n > 100_000) {
				t.Errorf("%d files for %d entries", len(files), n)
			}
			in := map[string]int{}
			var got []entry
			for i := range buckets {
				all, err := s.read(i)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range all {
					if at, seen := in[e.id]; seen && at != i {
						t.Fatalf("%s is in buckets %d and %d", e.id, at, i)
					}
					in[e.id] = i
				}
				got = append(got, all...)
			}
			order := func(a, b entry) int {
				return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.kind, b.kind), cmp.Compare(a.topic, b.topic))
			}
			slices.SortStableFunc(got, order)
			slices.SortStableFunc(want, order)
			if !slices.Equal(want, got) {
				t.Errorf("%d entries came out, of %d, or not as they went in", len(got), len(want))
			}
			s.close()
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%d files are left", len(left))
			}
		})
	}
}

func TestStoreWithoutAPlace(t *testing.T) {
	t.Parallel()
	if _, err := newStore("/nonexistent/place"); err == nil {
		t.Error("no error")
	}
}

// A file that is not what was written is an error, and never a panic.
func FuzzParseEntries(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 8 {
		e := random(r, "some-id")
		f.Add(e.append(nil))
	}
	f.Add([]byte{1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseEntries(data)
		if err != nil {
			return
		}
		var again []byte
		for i := range all {
			again = all[i].append(again)
		}
		second, err := parseEntries(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(len(all), len(second)); diff != "" || len(all) == 1 && !bytes.Equal(again, all[0].append(nil)) {
			t.Error(diff)
		}
	})
}
