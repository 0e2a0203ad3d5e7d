// Package fault is the vocabulary of failure: what went wrong, who must act,
// and what to type.
//
// Its job is one type, Error, and one table, the registry of codes. Every
// failure that a person can meet carries a Code; the code decides the class,
// the class decides what the program does (retry, dead letter, halt, exit).
// Decisions are made on codes and classes, never on message text.
//
// It leaves detection to the rooms that see the failure: they know the
// SQLSTATE or the Kafka code, and choose the Code. It imports nothing of ours.
package fault

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
)

// Class says who must act on a failure.
type Class uint8

const (
	// Halt means a person must decide: the relay disconnects from the slot,
	// never drops it, stays up unready and exits 6. It is the zero value on
	// purpose: what nobody classified is not guessed at.
	Halt Class = iota
	// Retry means waiting is right: the other side is expected to come back.
	Retry
	// Reject concerns one row only: it becomes a dead letter.
	Reject
	// Usage is a mistake in the command line or the configuration: exit 2.
	Usage
	// Internal is a broken invariant of our own: exit 1, nothing confirmed.
	Internal
	// Finding is what a check was asked to look for and found: exit 4. Nothing
	// is stopped by it.
	Finding
)

var classNames = [...]string{Halt: "halt", Retry: "retry", Reject: "reject", Usage: "usage", Internal: "internal", Finding: "finding"}

// String returns the class as it appears in logs.
func (c Class) String() string { return classNames[c] }

// ExitCode returns the process exit status of a command that ends with a
// failure of this class: 2 usage, 3 dependency not reachable in time, 4 a check
// found problems, 6 an operator must decide, 1 otherwise.
func (c Class) ExitCode() int {
	switch c {
	case Usage:
		return 2
	case Retry:
		return 3
	case Finding:
		return 4
	case Halt:
		return 6
	}
	return 1
}

// Code is one named failure. Codes are declared in the registry only, and are
// compared by identity.
type Code struct {
	ID    string // "OBX-3102", stable for ever
	Name  string // "slot_held", stable, for logs and metrics
	Class Class
	Why   string // default explanation in one clause
	Fix   string // default remedy, a command where there is one
}

// Error is a failure with a code. Detail says what was tried and with what
// facts; Why and Fix replace the code's defaults when facts sharpen them.
// No field may hold a secret, a payload, a key or a header value.
type Error struct {
	Code   *Code
	Detail string
	Why    string
	Fix    string
	Err    error
}

// New returns a failure with the code's own why and fix.
func New(code *Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Wrap is New with a cause, which errors.Is and errors.As see through.
func Wrap(err error, code *Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...), Err: err}
}

// WithFix replaces the code's remedy by one for exactly this case.
func (e *Error) WithFix(format string, args ...any) *Error {
	e.Fix = fmt.Sprintf(format, args...)
	return e
}

// WithWhy replaces the code's explanation by one for exactly this case.
func (e *Error) WithWhy(format string, args ...any) *Error {
	e.Why = fmt.Sprintf(format, args...)
	return e
}

// Error returns code, detail and cause on one line.
func (e *Error) Error() string {
	s := e.Code.ID + " " + e.Detail
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reason returns the explanation that applies.
func (e *Error) Reason() string {
	if e.Why != "" {
		return e.Why
	}
	return e.Code.Why
}

// Remedy returns the fix that applies.
func (e *Error) Remedy() string {
	if e.Fix != "" {
		return e.Fix
	}
	return e.Code.Fix
}

// Text renders the failure for a terminal: what, why, fix and the page that
// says more, one line each.
func (e *Error) Text() string {
	var b strings.Builder
	b.WriteString(e.Error())
	if class := e.Code.Connection(); class != "" {
		b.WriteString("\n  class: " + class)
	}
	if w := e.Reason(); w != "" {
		b.WriteString("\n  why: " + w)
	}
	if f := e.Remedy(); f != "" {
		b.WriteString("\n  fix: " + f)
	}
	b.WriteString("\n  docs: docs/errors.md#" + strings.ToLower(e.Code.ID))
	return b.String()
}

// Fields returns what a log line about the failure carries besides the error
// itself: every such line is written with it.
func (e *Error) Fields() map[string]any {
	m := map[string]any{"code": e.Code.ID, "name": e.Code.Name, "why": e.Reason(), "hint": e.Remedy()}
	if class := e.Code.Connection(); class != "" {
		m["connection"] = class
	}
	return m
}

// CodeOf returns the code that an error carries, or Unclassified, which halts.
func CodeOf(err error) *Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Unclassified
}

// Has tells whether an error carries exactly this code.
func Has(err error, code *Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// As returns the failure inside an error; an error without one is given the
// code Unclassified.
func As(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Wrap(err, Unclassified, "unclassified failure")
}

// Guard turns a panic of f into a failure with the code Panicked, for the root
// of a goroutine: a bug becomes a halt with nothing confirmed, not a crash that
// a supervisor restarts into the same bug. The stack is in the detail.
func Guard(f func() error) func() error {
	return func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = New(Panicked, "%v\n%s", p, debug.Stack())
			}
		}()
		return f()
	}
}
