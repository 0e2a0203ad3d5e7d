package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size. It reads 1048576, 1MiB, 64KiB, 5MB.
type Bytes int64

var units = [...]struct {
	name string
	size int64
}{
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"B", 1},
}

// UnmarshalText reads a size; units in any case, with or without a space.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	size := int64(1)
	for _, u := range units {
		if n := len(s) - len(u.name); n > 0 && strings.EqualFold(s[n:], u.name) {
			s, size = strings.TrimSpace(s[:n]), u.size
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/size {
		return fmt.Errorf("a size is a whole number with or without a unit: 1048576, 1MiB, 64KiB")
	}
	*b = Bytes(n * size)
	return nil
}

// String writes a size with the largest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range units[:3] {
		if b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
