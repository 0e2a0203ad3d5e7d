package sink

import (
	"strconv"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"
)

// slabRecords is how many records are allocated at a time, and headersPerRow
// how many headers are expected for each.
const (
	slabRecords   = 256
	headersPerRow = 14
	smallDecimals = 1024
	digitsBlock   = 8 << 10
)

// slabs allocates what every record needs in blocks. Pieces never overlap and
// are never taken back: a block lives as long as one of its records does.
type slabs struct {
	records []kgo.Record
	headers []kgo.RecordHeader
	digits  []byte
	small   [smallDecimals][]byte // decimals that nearly every transaction needs
}

func newSlabs() *slabs {
	s := new(slabs)
	buf := make([]byte, 0, 4*smallDecimals)
	for n := range s.small {
		start := len(buf)
		buf = strconv.AppendInt(buf, int64(n), 10)
		s.small[n] = buf[start:len(buf):len(buf)]
	}
	return s
}

func (s *slabs) record() *kgo.Record {
	if len(s.records) == 0 {
		s.records = make([]kgo.Record, slabRecords)
	}
	r := &s.records[0]
	s.records = s.records[1:]
	return r
}

// header returns n headers, whose capacity ends where they do.
func (s *slabs) header(n int) []kgo.RecordHeader {
	if n > len(s.headers) {
		s.headers = make([]kgo.RecordHeader, max(n, slabRecords*headersPerRow))
	}
	h := s.headers[:n:n]
	s.headers = s.headers[n:]
	return h
}

// decimal returns the digits of n. They are shared: nobody may write to them.
func (s *slabs) decimal(n uint64) []byte {
	if n < smallDecimals {
		return s.small[n]
	}
	if cap(s.digits)-len(s.digits) < 20 {
		s.digits = make([]byte, 0, digitsBlock)
	}
	start := len(s.digits)
	s.digits = strconv.AppendUint(s.digits, n, 10)
	return s.digits[start:len(s.digits):len(s.digits)]
}

// view reads a string as bytes without a copy. Nobody writes to a record's
// bytes: the client only copies them into its batches. An empty string becomes
// empty bytes and not nil, because nil is null to Kafka, and a record without
// a key goes anywhere.
func view(s string) []byte {
	if s == "" {
		return []byte{}
	}
	return unsafe.Slice(unsafe.StringData(s), len(s))
}
