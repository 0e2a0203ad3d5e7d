package verify

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"unique"
)

// ID is an event id in 16 bytes: of a UUID its value, of any other text the
// head of its hash. Millions of them are held at once.
type ID [16]byte

// IDOf reads an id as the id column and the id header spell it.
func IDOf(text string) ID {
	if id, ok := parseUUID(text); ok {
		return id
	}
	sum := sha256.Sum256([]byte(text))
	return ID(sum[:16])
}

// parseUUID takes the form that Postgres prints and no other: two texts that
// differ are two ids.
func parseUUID(s string) (ID, bool) {
	var id ID
	if len(s) != 36 {
		return id, false
	}
	n := 0
	for i := 0; i < len(s); {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return id, false
			}
			i++
			continue
		}
		hi, ok1 := lowerHex(s[i])
		lo, ok2 := lowerHex(s[i+1])
		if !ok1 || !ok2 {
			return id, false
		}
		id[n] = hi<<4 | lo
		n, i = n+1, i+2
	}
	return id, true
}

func lowerHex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// String returns the id in the form of a UUID.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[:8], id[:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:], id[10:])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// short folds the id for the live watch, which holds one per sighting.
func (id ID) short() uint64 {
	return binary.BigEndian.Uint64(id[:8]) ^ binary.BigEndian.Uint64(id[8:])
}

// Hash of a payload: the head of its SHA-256, because that is what a letter
// keeps of a payload that it had to leave out. Zero means no payload.
type Hash uint64

// HashOf hashes a payload; nil has none.
func HashOf(payload []byte) Hash {
	if payload == nil {
		return 0
	}
	sum := sha256.Sum256(payload)
	return Hash(binary.BigEndian.Uint64(sum[:8]))
}

// Name is a text that occurs often, held once: a key or a topic. The zero Name
// is the empty text.
type Name struct{ handle unique.Handle[string] }

// NameOf interns a text.
func NameOf(s string) Name {
	if s == "" {
		return Name{}
	}
	return Name{unique.Make(s)}
}

// String returns the text.
func (n Name) String() string {
	if n == (Name{}) {
		return ""
	}
	return n.handle.Value()
}
