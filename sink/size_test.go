package sink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestVarint(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 8191, 8192, 1<<20 - 1, 1 << 20, 1<<27 - 1, 1 << 27, 1<<31 - 1} {
		if got, want := varint(n), len(binary.AppendVarint(nil, int64(n))); got != want {
			t.Errorf("%d: got %d, want %d", n, got, want)
		}
	}
}

// What Size lets pass, the client takes; what is a few bytes more, it refuses.
// If the client counted otherwise one day, rows would fail in it instead of
// becoming letters.
func TestSizeAgreesWithClient(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	for _, limit := range []int{1000, 20_000, 1 << 20} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			cl, err := kgo.NewClient(
				kgo.SeedBrokers(cluster.ListenAddrs()...),
				kgo.ProducerBatchMaxBytes(int32(limit)),
				kgo.ProducerBatchCompression(kgo.NoCompression()),
				kgo.RecordPartitioner(Partitioner()),
			)
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			for _, over := range []int{-1, 0, 8} {
				r := recordOfSize(limit + over)
				err := cl.ProduceSync(t.Context(), r).FirstErr()
				if over <= 0 && err != nil {
					t.Errorf("size %d of %d: %v", Size(r), limit, err)
				}
				if over > 0 && !errors.Is(err, kerr.MessageTooLarge) {
					t.Errorf("size %d of %d: got %v", Size(r), limit, err)
				}
			}
		})
	}
}

func recordOfSize(n int) *kgo.Record {
	r := &kgo.Record{Topic: "t", Key: []byte("key"), Headers: []kgo.RecordHeader{{Key: "a", Value: bytes.Repeat([]byte("x"), 100)}, {Key: "b"}}}
	for r.Value = make([]byte, n); Size(r) > n; {
		r.Value = r.Value[:len(r.Value)-1]
	}
	return r
}

// A stamped record is not larger than it was taken for.
func TestCheckpointRoom(t *testing.T) {
	for value := range 20_000 {
		r := &kgo.Record{Value: make([]byte, value), Headers: []kgo.RecordHeader{{Key: "outbox.ckpt"}}}
		before := Size(r) + checkpointRoom
		r.Headers[0].Value = []byte("18446744073709551615")
		if after := Size(r); after > before {
			t.Fatalf("value of %d bytes: %d grew to %d", value, before, after)
		}
	}
}
