package sink

import (
	"math/bits"

	"github.com/twmb/franz-go/pkg/kgo"
)

// batchOverhead is a record batch without records as the client counts it: 61
// bytes of batch and a length of 4 before it, which is never less than what
// the newer form of the request needs.
const batchOverhead = 65

// Size returns the bytes of a batch that holds one record alone, uncompressed.
// Both limits on a record speak of it: the client refuses a record whose batch
// would pass its own limit before compressing, and the broker compares a batch
// with max.message.bytes. In a batch of its own the deltas of time and offset
// are zero and take a byte each.
func Size(r *kgo.Record) int {
	n := 1 + 1 + 1 + // attributes, time delta, offset delta
		varint(len(r.Key)) + len(r.Key) +
		varint(len(r.Value)) + len(r.Value) +
		varint(len(r.Headers))
	for i := range r.Headers {
		h := &r.Headers[i]
		n += varint(len(h.Key)) + len(h.Key) + varint(len(h.Value)) + len(h.Value)
	}
	return batchOverhead + varint(n) + n
}

// checkpointRoom is what the digits of the checkpoint's number will add to a
// record that is not stamped yet: at most 20, under a length that stays one
// byte. The lengths that enclose them can grow by a byte.
const checkpointRoom = 20 + 1

// varint returns the length of n in the zigzag form, for n >= 0.
func varint(n int) int {
	return (bits.Len64(uint64(n)<<1|1) + 6) / 7
}
