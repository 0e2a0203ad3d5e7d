// Package secret holds text that must never be seen.
//
// Its job is one type whose every printed form is a token: through fmt with
// any verb, encoding/json, YAML, zerolog, slog and reflection-based dumpers.
// The text comes out through Reveal only, so that a search for that one word
// finds every place where a secret leaves the type.
//
// It leaves to others where a secret comes from and how long it lives; it does
// not wipe memory, which a garbage-collected program cannot promise.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Token is what is shown in place of a secret that is set.
const Token = "[redacted]"

// Text is a secret. The zero value is "none".
type Text struct {
	// A pointer, because printers that walk unexported fields (%+v through a
	// parent with the method hidden, debuggers of tests) then show an address.
	p *string
}

// New returns the secret that holds s.
func New(s string) Text {
	if s == "" {
		return Text{}
	}
	return Text{p: &s}
}

// Reveal returns the text itself.
func (t Text) Reveal() string {
	if t.p == nil {
		return ""
	}
	return *t.p
}

// Set tells whether there is a secret.
func (t Text) Set() bool { return t.p != nil }

// String returns the token, or nothing when there is no secret.
func (t Text) String() string {
	if t.p == nil {
		return ""
	}
	return Token
}

// Format answers every verb of fmt, %x and %#v included, with the token.
func (t Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// MarshalText serves JSON, YAML, XML and zerolog's Interface.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalJSON is MarshalText as a JSON string.
func (t Text) MarshalJSON() ([]byte, error) { return []byte(`"` + t.String() + `"`), nil }

// LogValue serves log/slog.
func (t Text) LogValue() slog.Value { return slog.StringValue(t.String()) }
