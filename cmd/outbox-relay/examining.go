package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/holdwall/outbox-relay/internal/doctor"
)

// checkView is a check as the command shows it; its keys are stable.
type checkView struct {
	Group      string `json:"group"`
	Check      string `json:"check"`
	Target     string `json:"target,omitempty"`
	Status     string `json:"status"`
	Finding    string `json:"finding"`
	Code       string `json:"code,omitempty"`
	Name       string `json:"name,omitempty"`
	Why        string `json:"why,omitempty"`
	Fix        string `json:"fix,omitempty"`
	Docs       string `json:"docs,omitempty"`
	Connection string `json:"connection,omitempty"`
}

func viewOfCheck(r doctor.Result) checkView {
	v := checkView{Group: string(r.Group), Check: r.Check, Target: r.Target, Status: string(r.Status), Finding: r.Finding}
	if f := r.Fault; f != nil {
		v.Code, v.Name, v.Why, v.Fix, v.Connection = f.Code.ID, f.Code.Name, f.Reason(), f.Remedy(), f.Code.Connection()
		v.Docs = "docs/errors.md#" + strings.ToLower(f.Code.ID)
	}
	return v
}

// examine runs the doctor and shows what it found.
func examine(ctx context.Context, cfg doctor.Config, strict bool, text doctorText, out io.Writer, format string) error {
	report, err := doctor.Run(ctx, cfg)
	if err != nil {
		return err
	}
	result, status := "pass", error(nil)
	if report.Count(doctor.Warn) > 0 {
		result = "warn"
		if strict {
			status = exitFinding
		}
	}
	if report.Count(doctor.Fail) > 0 {
		result, status = "fail", exitFinding
	}
	if format != formatJSON {
		text.write(out, report, result)
		return status
	}
	views := make([]checkView, len(report.Results))
	for i, r := range report.Results {
		views[i] = viewOfCheck(r)
	}
	if err := writeJSON(out, map[string]any{
		"result": result, "passed": report.Count(doctor.Pass), "warnings": report.Count(doctor.Warn), "failed": report.Count(doctor.Fail),
		"skipped": report.Count(doctor.Skip), "duration_seconds": report.Took.Seconds(), "checks": views,
	}); err != nil {
		return err
	}
	return status
}

// doctorText is the report for people.
type doctorText struct {
	all   bool // what is well, too
	color bool
}

const (
	reportWidth = 80
	indent      = 7
)

func (t doctorText) write(out io.Writer, r doctor.Report, result string) {
	for _, g := range doctor.Groups() {
		var in []doctor.Result
		for _, res := range r.Results {
			if res.Group == g {
				in = append(in, res)
			}
		}
		if len(in) > 0 {
			t.group(out, g, in)
		}
	}
	fmt.Fprintf(out, "\n%s: %d passed, %d with a warning, %d failed, %d skipped, in %s\n", t.paint(doctor.Status(result), result),
		r.Count(doctor.Pass), r.Count(doctor.Warn), r.Count(doctor.Fail), r.Count(doctor.Skip), tookText(r.Took))
}

// group is one line if all is well, and what is not below it.
func (t doctorText) group(out io.Writer, g doctor.Group, in []doctor.Result) {
	part := doctor.Report{Results: in}
	line := fmt.Sprintf("%-12s %d passed", g, part.Count(doctor.Pass))
	for _, n := range []struct {
		count int
		what  string
	}{{part.Count(doctor.Warn), "with a warning"}, {part.Count(doctor.Fail), "failed"}, {part.Count(doctor.Skip), "skipped"}} {
		if n.count > 0 {
			line += fmt.Sprintf(", %d %s", n.count, n.what)
		}
	}
	fmt.Fprintln(out, line)
	// One reason to skip is told once for all that share it.
	skipped := map[string][]string{}
	var reasons []string
	for _, r := range in {
		switch r.Status {
		case doctor.Pass:
			if t.all {
				t.entry(out, r)
			}
		case doctor.Skip:
			if skipped[r.Finding] == nil {
				reasons = append(reasons, r.Finding)
			}
			skipped[r.Finding] = append(skipped[r.Finding], r.Check)
		default:
			t.entry(out, r)
		}
	}
	for _, why := range reasons {
		if t.all || strings.HasPrefix(why, "needs ") {
			which := strings.Join(skipped[why], ", ")
			if n := len(skipped[why]); n > 4 {
				which = fmt.Sprintf("%d checks", n)
			}
			fmt.Fprintf(out, "  %s %s\n", t.paint(doctor.Skip, "skip"), fill(which+": "+why, indent))
		}
	}
}

func (t doctorText) entry(out io.Writer, r doctor.Result) {
	head := r.Check
	if r.Fault != nil {
		head = r.Fault.Code.ID + " " + head
	}
	fmt.Fprintf(out, "  %s %s\n", t.paint(r.Status, string(r.Status)), fill(head+": "+r.Finding, indent))
	if r.Fault == nil {
		return
	}
	fmt.Fprintf(out, "       why: %s\n", fill(r.Fault.Reason(), indent+5))
	// Not cut into lines: it is for copying.
	fmt.Fprintf(out, "       fix: %s\n", r.Fault.Remedy())
}

func (t doctorText) paint(s doctor.Status, text string) string {
	code := map[doctor.Status]string{doctor.Pass: "32", doctor.Warn: "33", doctor.Fail: "31", doctor.Skip: "2"}[s]
	if !t.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// fill cuts a text into lines that fit behind an indent, the first of which
// begins where the cursor is.
func fill(text string, indent int) string {
	var b strings.Builder
	at := indent
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case at+1+len(word) > reportWidth:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += len(word)
	}
	return b.String()
}
