package kafka

import (
	"fmt"
	"strings"
)

// Switch is a setting that can be on, off or left to the program. The zero
// value leaves it to the program.
type Switch uint8

// The three positions.
const (
	Auto Switch = iota
	On
	Off
)

// String returns the position as it is written in a configuration.
func (s Switch) String() string {
	switch s {
	case On:
		return "true"
	case Off:
		return "false"
	}
	return "auto"
}

// UnmarshalText reads a position; the usual spellings of a boolean count.
func (s *Switch) UnmarshalText(text []byte) error {
	switch strings.ToLower(strings.TrimSpace(string(text))) {
	case "auto", "":
		*s = Auto
	case "true", "1", "yes", "on":
		*s = On
	case "false", "0", "no", "off":
		*s = Off
	default:
		return fmt.Errorf("%q is none of true, false and auto", text)
	}
	return nil
}
