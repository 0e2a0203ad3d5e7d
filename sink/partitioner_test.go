package sink

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The hashes are those of Kafka's own tests of its Java client.
func TestPartitionerByKey(t *testing.T) {
	p := Partitioner().ForTopic("t")
	for key, hash := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"abc":                        479470107,
	} {
		for _, n := range []int{1, 3, 12, 1000} {
			r := &kgo.Record{Key: []byte(key), Partition: 7} // as left by an earlier try
			if got, want := p.Partition(r, n), int(hash&0x7fffffff)%n; got != want || !p.RequiresConsistency(r) {
				t.Errorf("%q of %d: got %d, want %d", key, n, got, want)
			}
		}
	}
}

func TestPartitionerExplicit(t *testing.T) {
	p := Partitioner().ForTopic("t")
	r := &kgo.Record{Key: []byte("21")}
	SetPartition(r, 5)
	r.Partition = 1 // the client writes what it likes there
	if got := p.Partition(r, 12); got != 5 || !p.RequiresConsistency(r) {
		t.Errorf("got %d", got)
	}
	r.Key = nil
	if !p.RequiresConsistency(r) {
		t.Error("a partition asked for may be changed while it is unavailable")
	}
}

func TestPartitionerWithoutKey(t *testing.T) {
	p := Partitioner().ForTopic("t")
	var seen [3]int
	for range 30 {
		r := new(kgo.Record)
		if p.RequiresConsistency(r) {
			t.Fatal("a record without a key is held to a partition")
		}
		seen[p.Partition(r, 3)]++
	}
	if seen != [3]int{10, 10, 10} {
		t.Errorf("spread is %v", seen)
	}
}
