package monitor

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../../"

// metric is a row of docs/metrics.md, which a test of cmd/outbox-relay keeps
// equal to what is exported.
type metric struct {
	kind   string
	labels map[string][]string // nil: any value
}

type catalog map[string]metric

func exported(t *testing.T) catalog {
	t.Helper()
	text, err := os.ReadFile(root + "docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	c := catalog{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| (\\w+)[^|]*\\| ([^|]*) \\|").FindAllStringSubmatch(string(text), -1) {
		m := metric{kind: row[2], labels: map[string][]string{}}
		for l := range strings.SplitSeq(row[3], ";") {
			name, values, known := strings.Cut(strings.TrimSpace(l), ":")
			if name = strings.Trim(name, "`"); name == "" {
				continue
			}
			m.labels[name] = nil
			if known {
				m.labels[name] = strings.Split(strings.TrimSpace(values), ", ")
			}
		}
		c[row[1]] = m
	}
	if len(c) < 60 {
		t.Fatalf("only %d metrics in docs/metrics.md", len(c))
	}
	return c
}

// ofTarget are the labels that a scrape adds.
var ofTarget = []string{"cluster", "namespace", "job", "instance"}

// check fails for what an expression names that is not exported.
func (c catalog) check(t *testing.T, where, expr string) {
	t.Helper()
	for _, problem := range c.problems(expr) {
		t.Errorf("%s: %s", where, problem)
	}
}

func (c catalog) problems(expr string) (out []string) {
	selectors, groupedBy := read(expr)
	if len(selectors) == 0 {
		out = append(out, "no metric in "+expr)
	}
	known := append([]string{"le"}, ofTarget...)
	for _, s := range selectors {
		if s.metric == "" || strings.HasPrefix(s.metric, "go_") || strings.HasPrefix(s.metric, "process_") {
			continue
		}
		m, ok := c.find(s.metric)
		if !ok {
			out = append(out, s.metric+" is not exported")
			continue
		}
		for l := range m.labels {
			known = append(known, l)
		}
		for _, l := range s.labels {
			values, ok := m.labels[l.label]
			if !ok && !slices.Contains(ofTarget, l.label) {
				out = append(out, s.metric+" has no label "+l.label)
			}
			for v := range strings.SplitSeq(l.value, "|") {
				if values != nil && !slices.Contains(values, v) {
					out = append(out, l.label+" of "+s.metric+" is never "+v)
				}
			}
		}
	}
	for _, l := range groupedBy {
		if !slices.Contains(known, l) {
			out = append(out, "nothing in it has the label "+l)
		}
	}
	return out
}

// find knows the series of a histogram too.
func (c catalog) find(name string) (metric, bool) {
	if m, ok := c[name]; ok {
		return m, true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, cut := strings.CutSuffix(name, suffix); cut && c[base].kind == "histogram" {
			return c[base], true
		}
	}
	return metric{}, false
}
