package outbox

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzDecode gives arbitrary bytes to every column and checks that what comes
// out is what went in, and that the input is not written to.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("i"), []byte("{}"), []byte(`\x00`), []byte(`{"a":"b"}`), []byte("3"), []byte("2026-01-02 03:04:05.6+00"), uint16(0))
	f.Add([]byte(""), []byte("x"), []byte(`a\\\001`), []byte(`[`), []byte("-1"), []byte("infinity"), uint16(0xffff))
	f.Add([]byte("i"), []byte("x"), []byte(`\xf`), []byte(` { } `), []byte(""), []byte("2024-02-29 23:59:59+05:30"), uint16(0b10000))
	f.Fuzz(func(t *testing.T, id, payload, raw, headers, partition, created []byte, nulls uint16) {
		values := [][]byte{id, id, id, id, payload, raw, headers, id, id, partition, id, id, id, id, created}
		for i := range values {
			if nulls&(1<<i) != 0 {
				values[i] = nil
			} else if values[i] == nil {
				values[i] = []byte{}
			}
		}
		before := make([][]byte, len(values))
		for i, v := range values {
			before[i] = slices.Clone(v)
		}
		for _, payloadType := range []uint32{oidJSONB, oidBytea, oidText} {
			table := fullTable()
			table[4].TypeOID = payloadType
			d, err := NewDecoder(DefaultColumns(), table)
			if err != nil {
				t.Fatal(err)
			}
			var rec, other Record
			err = d.Decode(values, &rec)
			if err2 := d.Decode(values, &other); (err == nil) != (err2 == nil) {
				t.Fatalf("the same row gave %v, then %v", err, err2)
			}
			for i, v := range values {
				if !bytes.Equal(v, before[i]) {
					t.Fatalf("column %d was written to", i)
				}
			}
			if rec.ID != string(before[0]) || rec.Type != string(before[3]) || rec.Key != string(before[8]) {
				t.Fatal("a text is not what the row holds")
			}
			if payloadType != oidBytea && values[4] != nil && !bytes.Equal(rec.Payload, before[4]) {
				t.Fatal("the payload is not what the row holds")
			}
			if err != nil {
				continue
			}
			if rec.ID == "" {
				t.Fatal("a record without id")
			}
			if rec.Binary && bytes.HasPrefix(before[5], []byte(`\x`)) {
				want, err := hex.DecodeString(string(before[5][2:]))
				if err != nil || !bytes.Equal(want, rec.Payload) {
					t.Fatalf("bytea %q gave %x", before[5], rec.Payload)
				}
			}
			if at := rec.CreatedAt; !at.IsZero() && len(before[14]) == len("2026-01-02 03:04:05") {
				if want, err := time.Parse(time.DateTime, string(before[14])); err != nil || !want.Equal(at) {
					t.Fatalf("%q gave %v, time.Parse %v %v", before[14], at, want, err)
				}
			}
		}
	})
}

// FuzzHeaders holds the header reader against encoding/json: both take the
// same documents, and read the same members from them.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{
		`{}`, ` {"a" : "b", "c":1.5e3,"d":null,"e":[1,{"x":"]"}],"f":{"g":"}"},"h":true}`, `{"a\u00e9\n":"\ud83d\ude00\\"}`,
		`{"a":"b"`, `{"a":01}`, `{"a" "b"}`, `{"a":1,}`, `{,}`, `[]`, `null`, `"x"`, `{"a":"b"} x`, "{\"a\":\"\n\"}", `{"a":1"b":2}`, `{"a":[}`, `{"a":tru}`, `{"a":"\x"}`, `{"a":-}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if !utf8.Valid(in) || len(in) > 1<<16 {
			return // Postgres sends UTF-8 only
		}
		before := slices.Clone(in)
		d := new(Decoder)
		got, bad := d.decodeHeaders(in)
		if !bytes.Equal(in, before) {
			t.Fatal("the document was written to")
		}
		want, ok := readHeaders(in)
		if ok != (bad == "") {
			t.Fatalf("%q: got %q, encoding/json says valid=%v", in, bad, ok)
		}
		if !ok {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%q: got %v, want %v", in, got, want)
		}
		for i := range got {
			if got[i].Key != want[i].Key || !bytes.Equal(got[i].Value, want[i].Value) || got[i].Value == nil {
				t.Fatalf("%q: header %d is %q=%q, want %q=%q", in, i, got[i].Key, got[i].Value, want[i].Key, want[i].Value)
			}
		}
	})
}

// readHeaders is the slow way.
func readHeaders(in []byte) ([]Header, bool) {
	if len(bytes.Trim(in, " \t\r\n")) == 0 {
		return nil, true
	}
	if !json.Valid(in) || bytes.TrimLeft(in, " \t\r\n")[0] != '{' {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(in))
	if _, err := dec.Token(); err != nil {
		return nil, false
	}
	var out []Header
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, false
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, false
		}
		if string(raw) == "null" {
			continue
		}
		var s string
		if json.Unmarshal(raw, &s) == nil {
			raw = []byte(s)
		}
		out = append(out, Header{Key: name.(string), Value: raw})
	}
	return out, true
}
