package verify

import (
	"bytes"
	"strconv"
)

// Mark is what a load generator writes into every payload, for the judge to
// read from the row and, apart from that, from the record.
type Mark struct {
	Run    string `json:"run"`
	Writer int    `json:"writer"`
	Tx     int    `json:"tx"`
	Row    int    `json:"row"`
	Key    string `json:"key"`
	// KeySeq is 1, 2, 3 ... per key in commit order.
	KeySeq uint32 `json:"key_seq"`
	// Poison is the reason with which the row must become a letter; empty if it
	// must not.
	Poison string `json:"poison,omitempty"`
	// Undone is set on rows that are rolled back: no record may carry it.
	Undone bool   `json:"undone,omitempty"`
	Pad    string `json:"pad,omitempty"`
}

// marks are the parts of a Mark that properties need.
type marks struct {
	keySeq uint32
	marked bool   // the payload is a Mark
	poison []byte // the reason; nil: none
	undone bool
}

// readMarks looks for the members by name instead of parsing: it runs twice per
// event over millions of them. Both spellings occur: jsonb prints a space after
// the colon, an encoder does not. A Mark holds no text in which the quoted
// names could occur.
func readMarks(payload []byte) marks {
	seq, ok := member(payload, `"key_seq":`)
	if !ok {
		return marks{}
	}
	n, err := strconv.ParseUint(string(digits(seq)), 10, 32)
	if err != nil {
		return marks{}
	}
	var reason []byte
	if poison, ok := member(payload, `"poison":`); ok {
		reason, _, _ = bytes.Cut(bytes.TrimPrefix(poison, []byte{'"'}), []byte{'"'})
	}
	_, undone := member(payload, `"undone":`)
	return marks{keySeq: uint32(n), marked: true, poison: reason, undone: undone}
}

func member(payload []byte, name string) ([]byte, bool) {
	at := bytes.Index(payload, []byte(name))
	if at < 0 {
		return nil, false
	}
	return bytes.TrimLeft(payload[at+len(name):], " "), true
}

func digits(b []byte) []byte {
	for i, c := range b {
		if c < '0' || c > '9' {
			return b[:i]
		}
	}
	return b
}
