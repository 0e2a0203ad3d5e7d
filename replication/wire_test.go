package replication_test

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pglogrepl"
)

// The messages of pgoutput, protocol version 1, as a server would write them.

func begin(commit pglogrepl.LSN, at time.Time, xid uint32) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'B'}, uint64(commit))
	b = binary.BigEndian.AppendUint64(b, pgMicros(at))
	return binary.BigEndian.AppendUint32(b, xid)
}

func commit(at, end pglogrepl.LSN, when time.Time) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'C', 0}, uint64(at))
	b = binary.BigEndian.AppendUint64(b, uint64(end))
	return binary.BigEndian.AppendUint64(b, pgMicros(when))
}

func relation(id uint32, schema, name string, columns ...string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'R'}, id)
	b = append(append(b, schema...), 0)
	b = append(append(b, name...), 0)
	b = append(b, 'd')
	b = binary.BigEndian.AppendUint16(b, uint16(len(columns)))
	for i, c := range columns {
		key := byte(0)
		if i == 0 {
			key = 1
		}
		b = append(append(append(b, key), c...), 0)
		b = binary.BigEndian.AppendUint32(b, 25)
		b = binary.BigEndian.AppendUint32(b, 0xffffffff)
	}
	return b
}

// insert writes nil values as NULL.
func insert(relation uint32, values ...[]byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'I'}, relation)
	b = append(b, 'N')
	b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
	for _, v := range values {
		if v == nil {
			b = append(b, 'n')
			continue
		}
		b = binary.BigEndian.AppendUint32(append(b, 't'), uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

func row(relation uint32, values ...string) []byte {
	all := make([][]byte, len(values))
	for i, v := range values {
		all[i] = []byte(v)
	}
	return insert(relation, all...)
}

func change(relation uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'U'}, relation)
	return append(b, 'N', 0, 0)
}

func remove(relation uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'D'}, relation)
	return append(b, 'K', 0, 0)
}

func truncate(relations ...uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'T'}, uint32(len(relations)))
	b = append(b, 0)
	for _, r := range relations {
		b = binary.BigEndian.AppendUint32(b, r)
	}
	return b
}

func pgMicros(t time.Time) uint64 {
	return uint64(t.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds())
}
