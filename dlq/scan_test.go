package dlq

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// batch is one as it stands in a log, with n records from base on that once were
// five.
func batch(base int64, n int32) []byte {
	b := kmsg.RecordBatch{FirstOffset: base, LastOffsetDelta: 4, NumRecords: n, Magic: 2, Records: make([]byte, 3*n)}
	b.Length = int32(len(b.AppendTo(nil)) - 12)
	return b.AppendTo(nil)
}

func TestEmptied(t *testing.T) {
	for _, tc := range []struct {
		name    string
		raw     []byte
		next    int64
		nothing bool
	}{
		{"no batch", nil, 7, true},
		{"an empty batch", batch(10, 0), 15, false},
		{"two empty batches", append(batch(10, 0), batch(15, 0)...), 20, false},
		{"records behind an empty batch", append(batch(10, 0), batch(15, 2)...), 15, false},
		{"records", batch(10, 5), 7, false},
		{"half a batch", batch(10, 0)[:30], 7, false},
	} {
		next, nothing := emptied(tc.raw, 7)
		if next != tc.next || nothing != tc.nothing {
			t.Errorf("%s: %d, %t, want %d, %t", tc.name, next, nothing, tc.next, tc.nothing)
		}
	}
}
