package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
)

const formatJSON = "json"

// exitStatus is an error that has been shown already, as the result of a
// command, and only asks for a status.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// writeJSON writes a result: indented, one object or list, keys in snake_case.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	// Fixes and positions hold < and >, which people copy.
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// failure is an error as `-o json` shows it; its keys are stable.
type failure struct {
	Code  string `json:"code"`
	Name  string `json:"name"`
	Class string `json:"class"`
	// Connection is the class of a connection fault, such as dns or tls.
	Connection string `json:"connection,omitempty"`
	Detail     string `json:"detail"`
	Why        string `json:"why,omitempty"`
	Fix        string `json:"fix,omitempty"`
	Docs       string `json:"docs"`
}

// report shows what ended a command and returns the exit status.
func report(w io.Writer, asJSON bool, err error) int {
	var asked exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &asked):
		return int(asked)
	}
	faults := faultsOf(err)
	if !asJSON {
		for _, f := range faults {
			fmt.Fprintln(w, f.Text())
		}
		return faults[0].Code.Class.ExitCode()
	}
	var body struct {
		Errors []failure `json:"errors"`
	}
	body.Errors = failuresOf(faults)
	_ = writeJSON(w, body) // there is nobody left to tell
	return faults[0].Code.Class.ExitCode()
}

// failuresOf returns errors as they are shown.
func failuresOf(faults []*fault.Error) []failure {
	all := make([]failure, len(faults))
	for i, f := range faults {
		all[i] = failure{
			Code: f.Code.ID, Name: f.Code.Name, Class: f.Code.Class.String(), Connection: f.Code.Connection(),
			Detail: strings.TrimPrefix(f.Error(), f.Code.ID+" "), Why: f.Reason(), Fix: f.Remedy(),
			Docs: "docs/errors.md#" + strings.ToLower(f.Code.ID),
		}
	}
	return all
}

// faultsOf returns the failures inside an error. One without a code is a
// failure of the run, not one that asks for a decision about data.
func faultsOf(err error) []*fault.Error {
	var many config.Problems
	var one *fault.Error
	switch {
	case errors.As(err, &many):
		return many
	case errors.As(err, &one):
		return []*fault.Error{one}
	}
	return []*fault.Error{fault.Wrap(err, fault.Runtime, "outbox-relay")}
}
