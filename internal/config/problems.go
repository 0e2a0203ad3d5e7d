package config

import (
	"strings"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Problems is everything that is wrong with a configuration.
type Problems []*fault.Error

func (p Problems) Error() string {
	parts := make([]string, len(p))
	for i, f := range p {
		parts[i] = f.Error()
	}
	return strings.Join(parts, "; ")
}

// Unwrap lets errors.As find the first problem's code, and with it the exit
// status.
func (p Problems) Unwrap() []error {
	errs := make([]error, len(p))
	for i, f := range p {
		errs[i] = f
	}
	return errs
}

// Text renders all of them for a terminal.
func (p Problems) Text() string {
	parts := make([]string, len(p))
	for i, f := range p {
		parts[i] = f.Text()
	}
	return strings.Join(parts, "\n")
}

// Warning is something that will work and is likely not meant.
type Warning struct {
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}
