package fault_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const guide = "../../docs/KAFKA_TROUBLESHOOTING.md"

// A table stands behind a mark that says which codes belong there, single ones
// or ranges, and ends at the first line that is none of it.
var table = regexp.MustCompile(`(?m)^<!-- codes: ([0-9 -]+) -->\n(?:\n(?:\|.*\n)+)?`)

// The guide has every code, in the place of what is seen. The text is written
// by people, the tables by this test.
func TestTroubleshootingPage(t *testing.T) {
	t.Parallel()
	all := registry(t)
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	placed := map[string]int{}
	got := table.ReplaceAllStringFunc(string(text), func(block string) string {
		spec := table.FindStringSubmatch(block)[1]
		var rows strings.Builder
		for _, e := range all {
			if !within(t, spec, e.id) {
				continue
			}
			placed[e.id]++
			cell := func(s string) string { return strings.ReplaceAll(escape(s), "|", `\|`) }
			fmt.Fprintf(&rows, "| [%s](errors.md#%s) | %s | %s | %s |\n", e.id, strings.ToLower(e.id), e.class, cell(e.why), cell(e.fix))
		}
		mark := "<!-- codes: " + spec + " -->\n"
		if rows.Len() == 0 {
			return mark
		}
		return mark + "\n| code | class | why | fix |\n|---|---|---|---|\n" + rows.String()
	})
	for _, e := range all {
		if placed[e.id] != 1 {
			t.Errorf("%s %s is in %d sections of the guide, not in one: add it to a mark <!-- codes: ... -->", e.id, e.name, placed[e.id])
		}
	}
	if *update {
		if err := os.WriteFile(guide, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), got); diff != "" {
		t.Errorf("the tables are not what `make docs` writes (-file +registry):\n%s", diff)
	}
}

// within tells whether a list such as "5001 5020-5041" has the code.
func within(t *testing.T, spec, id string) bool {
	t.Helper()
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("mark %q: %v", spec, err)
		}
		return n
	}
	n := number(strings.TrimPrefix(id, "OBX-"))
	for _, part := range strings.Fields(spec) {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		if n >= number(first) && n <= number(last) {
			return true
		}
	}
	return false
}

// Every code that is told in two pages is told there by the same words, and
// has a section to be looked up in.
func TestEveryCodeHasItsPages(t *testing.T) {
	t.Parallel()
	for _, file := range []string{page, guide} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range registry(t) {
			form := "\n### " + e.id + "\n"
			if file == guide {
				form = "[" + e.id + "](errors.md#" + strings.ToLower(e.id) + ")"
			}
			if !strings.Contains(string(text), form) {
				t.Errorf("%s is not in %s", e.id, file)
			}
		}
	}
}
