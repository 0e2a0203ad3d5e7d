package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Property names one thing that must hold.
type Property string

// The properties. P0 is about the evidence itself; if it does not hold, the
// rest is not looked at.
const (
	P0  Property = "P0"
	P1  Property = "P1"
	P2  Property = "P2"
	P3  Property = "P3"
	P4  Property = "P4"
	P5  Property = "P5"
	P6  Property = "P6"
	P7  Property = "P7"
	P8  Property = "P8"
	P9  Property = "P9"
	P10 Property = "P10"
	P11 Property = "P11"
	P12 Property = "P12"
	P13 Property = "P13"
	P14 Property = "P14"
)

// rule is a property, what it demands, and the function that checks it.
type rule struct {
	property Property
	title    string
	check    func(*facts, *Finding)
}

func rules() []rule {
	return []rule{
		{P1, "no loss", checkLoss},
		{P2, "no duplicate", checkDuplicates},
		{P3, "nothing invented", checkInvented},
		{P4, "key order", checkKeyOrder},
		{P5, "partition order", checkPartitionOrder},
		{P6, "placement", checkPlacement},
		{P7, "aborted invisible", checkVisibility},
		{P8, "atomicity", checkAtomicity},
		{P9, "checkpoints", checkCheckpoints},
		{P10, "slot behind checkpoint", checkSlot},
		{P11, "stable prefix", checkPrefix},
		{P12, "nothing left open", checkOpen},
		{P13, "letters", checkLetters},
		{P14, "replays", checkReplays},
	}
}

// Finding is what became of one property.
type Finding struct {
	Property   Property   `json:"property"`
	Title      string     `json:"title"`
	Checked    int        `json:"checked"`    // facts looked at; 0: there were none
	Violations int        `json:"violations"` // facts that break it
	First      *Violation `json:"first,omitempty"`
}

// Violation is one broken fact with what lies around it.
type Violation struct {
	What       string   `json:"what"`
	Neighbours []string `json:"neighbours,omitempty"`
}

// fail counts a violation and keeps the first. around is called for that one
// only: a broken run may have millions.
func (f *Finding) fail(around func() []string, format string, args ...any) {
	f.Violations++
	if f.First != nil {
		return
	}
	f.First = &Violation{What: fmt.Sprintf(format, args...)}
	if around != nil {
		f.First.Neighbours = around()
	}
}

// Counts says how much was looked at.
type Counts struct {
	Transactions int `json:"transactions"` // committed in Postgres
	Rows         int `json:"rows"`
	Before       int `json:"before"`    // rows older than the first checkpoint: not owed
	Published    int `json:"published"` // records that consumers are shown
	Letters      int `json:"letters"`
	Replayed     int `json:"replayed,omitempty"` // records that were letters before
	Marks        int `json:"marks,omitempty"`    // that say what became of a letter
	Aborted      int `json:"aborted"`            // records that consumers are not shown
	Checkpoints  int `json:"checkpoints"`
	Sessions     int `json:"sessions"`
	Samples      int `json:"samples"`
	Sighted      int `json:"sighted"` // records that the live reader saw
}

// Report is the verdict.
type Report struct {
	Counts   Counts    `json:"counts"`
	Findings []Finding `json:"findings"`
}

// Of returns the finding for a property.
func (r *Report) Of(p Property) Finding {
	for _, f := range r.Findings {
		if f.Property == p {
			return f
		}
	}
	return Finding{Property: p}
}

// Unchecked returns the properties that there were no facts for.
func (r *Report) Unchecked() []Property {
	var none []Property
	for _, f := range r.Findings {
		if f.Checked == 0 && f.Violations == 0 {
			none = append(none, f.Property)
		}
	}
	return none
}

// Err returns nil if no property is broken, and otherwise one line per broken
// property.
func (r *Report) Err() error {
	var all []error
	for _, f := range r.Findings {
		if f.Violations > 0 {
			all = append(all, fmt.Errorf("%s %s: %d violations, first: %s", f.Property, f.Title, f.Violations, f.First.What))
		}
	}
	return errors.Join(all...)
}

// Require is Err, and demands besides that these properties had facts to be
// judged by: a run that forgot its sampler did not pass P10.
func (r *Report) Require(properties ...Property) error {
	err := r.Err()
	for _, p := range properties {
		if f := r.Of(p); f.Checked == 0 && f.Violations == 0 {
			err = errors.Join(err, fmt.Errorf("%s was not checked: there was no evidence for it", p))
		}
	}
	return err
}

// WriteJSON writes the report for machines.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// String returns the report for people.
func (r *Report) String() string {
	var b strings.Builder
	c := r.Counts
	fmt.Fprintf(&b, "%d rows in %d transactions committed (%d before the first checkpoint)\n", c.Rows, c.Transactions, c.Before)
	fmt.Fprintf(&b, "%d published, %d letters, %d records of aborted transactions, %d checkpoints of %d sessions\n",
		c.Published, c.Letters, c.Aborted, c.Checkpoints, c.Sessions)
	if c.Marks > 0 || c.Replayed > 0 {
		fmt.Fprintf(&b, "%d letters replayed, %d marks say what became of letters\n", c.Replayed, c.Marks)
	}
	for _, f := range r.Findings {
		verdict := "ok"
		switch {
		case f.Violations > 0:
			verdict = fmt.Sprintf("%d VIOLATIONS", f.Violations)
		case f.Checked == 0:
			verdict = "not checked"
		}
		fmt.Fprintf(&b, "%-4s %-24s %10d  %s\n", f.Property, f.Title, f.Checked, verdict)
	}
	for _, f := range r.Findings {
		if f.First == nil {
			continue
		}
		fmt.Fprintf(&b, "\n%s %s: %s\n", f.Property, f.Title, f.First.What)
		for _, line := range f.First.Neighbours {
			b.WriteString("  " + line + "\n")
		}
	}
	return b.String()
}
