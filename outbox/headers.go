package outbox

import (
	"bytes"
	"encoding/json"
)

// Headers are allocated headerSlab at a time; a slab with less than headerRoom
// left is given up, so that a usual row does not have to move out of it.
const (
	headerSlab = 256
	headerRoom = 8
)

// decodeHeaders reads the headers column: one JSON object, its members in the
// order of the document. Values alias v, except strings with escapes. The
// second result says what is wrong, if anything is; the headers before it are
// returned too.
func (d *Decoder) decodeHeaders(v []byte) ([]Header, string) {
	v = space(v)
	if len(v) == 0 {
		return nil, ""
	}
	if v[0] != '{' {
		return nil, "is not a JSON object"
	}
	const malformed = "is not valid JSON"
	if cap(d.slab)-len(d.slab) < headerRoom {
		d.slab = make([]Header, 0, headerSlab)
	}
	out := d.slab[len(d.slab):]
	rest := space(v[1:])
	if len(rest) > 0 && rest[0] == '}' {
		if len(space(rest[1:])) > 0 {
			return nil, malformed
		}
		return nil, ""
	}
	for {
		name, tail, ok := cutString(rest)
		if !ok {
			return d.keep(out), malformed
		}
		tail = space(tail)
		if len(tail) == 0 || tail[0] != ':' {
			return d.keep(out), malformed
		}
		value, null, tail, ok := cutValue(space(tail[1:]))
		if !ok {
			return d.keep(out), malformed
		}
		if !null {
			out = append(out, Header{Key: text(name), Value: value})
		}
		tail = space(tail)
		switch {
		case len(tail) > 0 && tail[0] == ',':
			rest = space(tail[1:])
		case len(tail) > 0 && tail[0] == '}' && len(space(tail[1:])) == 0:
			return d.keep(out), ""
		default:
			return d.keep(out), malformed
		}
	}
}

// keep moves the end of the slab behind what a row took, so that the next row
// cannot append over it. A row with more headers than the slab had room for
// has an array of its own by then.
func (d *Decoder) keep(out []Header) []Header {
	if len(out) == 0 {
		return nil
	}
	if n := len(d.slab) + len(out); n <= cap(d.slab) {
		d.slab = d.slab[:n]
	}
	return out[:len(out):len(out)]
}

// cutValue splits off one JSON value: a string as its text, anything else as
// its JSON text.
func cutValue(v []byte) (value []byte, null bool, rest []byte, ok bool) {
	if len(v) == 0 {
		return nil, false, nil, false
	}
	if v[0] == '"' {
		value, rest, ok = cutString(v)
		return value, false, rest, ok
	}
	end := 0
	if v[0] == '{' || v[0] == '[' {
		end = closing(v)
	} else {
		for end < len(v) && v[end] != ',' && v[end] != '}' && !isSpace(v[end]) {
			end++
		}
	}
	value, rest = v[:end:end], v[end:]
	switch string(value) {
	case "null":
		return nil, true, rest, true
	case "true", "false":
		return value, false, rest, true
	}
	return value, false, rest, json.Valid(value)
}

// closing returns the length of the object or array that v begins with, by
// its brackets alone; whether it is valid is checked elsewhere.
func closing(v []byte) int {
	depth := 0
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		case '"':
			for i++; i < len(v) && v[i] != '"'; i++ {
				if v[i] == '\\' {
					i++
				}
			}
		}
	}
	return len(v)
}

// cutString splits off a JSON string and returns its text. Only a string with
// escapes is copied.
func cutString(v []byte) (value, rest []byte, ok bool) {
	if len(v) == 0 || v[0] != '"' {
		return nil, nil, false
	}
	escaped := false
	for i := 1; i < len(v); i++ {
		switch c := v[i]; {
		case c == '"' && !escaped:
			return v[1:i:i], v[i+1:], true
		case c == '"':
			var s string
			if json.Unmarshal(v[:i+1], &s) != nil {
				return nil, nil, false
			}
			return []byte(s), v[i+1:], true
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return nil, nil, false
		}
	}
	return nil, nil, false
}

func space(v []byte) []byte { return bytes.TrimLeft(v, " \t\r\n") }

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }
