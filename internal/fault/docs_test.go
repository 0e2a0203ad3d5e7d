package fault_test

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/internal/fault"
)

var update = flag.Bool("update", false, "write docs/errors.md")

const page = "../../docs/errors.md"

// entry is a code as the registry's source spells it. The source is read,
// because the registry is no list: a list would be one more thing to forget.
type entry struct{ id, name, class, why, fix string }

func registry(t *testing.T) []entry {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "registry.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []entry
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if fn, ok := call.Fun.(*ast.Ident); !ok || fn.Name != "code" || len(call.Args) != 5 {
			return true
		}
		var words [5]string
		for i, arg := range call.Args {
			switch arg := arg.(type) {
			case *ast.Ident:
				words[i] = strings.ToLower(arg.Name)
			case *ast.BasicLit:
				if words[i], err = strconv.Unquote(arg.Value); err != nil {
					t.Fatal(err)
				}
			default:
				t.Fatalf("argument %d of a code is neither a name nor a text", i)
			}
		}
		all = append(all, entry{words[0], words[1], words[2], words[3], words[4]})
		return true
	})
	if len(all) < 50 {
		t.Fatalf("%d codes found in registry.go", len(all))
	}
	return all
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	all := registry(t)
	seen := map[string]bool{}
	for i, e := range all {
		if seen[e.id] || seen[e.name] {
			t.Errorf("%s %s is there twice", e.id, e.name)
		}
		seen[e.id], seen[e.name] = true, true
		if i > 0 && all[i-1].id >= e.id {
			t.Errorf("%s stands behind %s", e.id, all[i-1].id)
		}
		if e.why == "" || e.fix == "" {
			t.Errorf("%s has no why or no fix", e.id)
		}
		if chapterOf(e.id) == "" {
			t.Errorf("%s is in no range", e.id)
		}
	}
}

// chapters are the ranges of the codes.
var chapters = []struct{ first, title string }{
	{"13", "Host and settings, found by doctor"}, {"1", "Configuration"}, {"2", "Rows"}, {"3", "Postgres"}, {"4", "State of the relay"}, {"5", "Kafka"}, {"9", "Internal"},
}

func chapterOf(id string) string {
	digits, ok := strings.CutPrefix(id, "OBX-")
	if !ok || len(digits) != 4 {
		return ""
	}
	for _, c := range chapters {
		if strings.HasPrefix(digits, c.first) {
			return c.title
		}
	}
	return ""
}

// What a class means to the person who reads.
var classTexts = map[string]string{
	fault.Halt.String():     "halts until a person decides",
	fault.Retry.String():    "tried again",
	fault.Reject.String():   "the row becomes a dead letter",
	fault.Usage.String():    "nothing is started",
	fault.Internal.String(): "ends the command",
	fault.Finding.String():  "found by a check",
}

var exits = map[string]string{
	fault.Halt.String():     strconv.Itoa(fault.Halt.ExitCode()),
	fault.Retry.String():    strconv.Itoa(fault.Retry.ExitCode()) + " of a command; `serve` goes on",
	fault.Reject.String():   "none",
	fault.Usage.String():    strconv.Itoa(fault.Usage.ExitCode()),
	fault.Internal.String(): strconv.Itoa(fault.Internal.ExitCode()),
	fault.Finding.String():  strconv.Itoa(fault.Finding.ExitCode()),
}

const intro = `# Errors

<!-- Written by: make docs. Texts are in internal/fault/registry.go and internal/fault/pages. -->

Every failure has a code that never changes its meaning. It is printed with what
was tried, why it failed and what to do, and it is in the log (` + "`code`" + `), in
` + "`/readyz`" + ` and in ` + "`/api/health`" + `. The texts below are the general ones; a message
often knows more, such as the statement to run.

[KAFKA_TROUBLESHOOTING.md](KAFKA_TROUBLESHOOTING.md) has the same codes by what you see.

The class of a code says who has to act:

| class | what ` + "`serve`" + ` does | what other commands do |
|---|---|---|
| halt | lets go of the slot without dropping it, stays up and unready; exit 6 when stopped, at once with ` + "`--exit-on-halt`" + ` | exit 6 |
| retry | waits and tries again, for ever | exit 3 |
| reject | sends the row to the dead letter topic and goes on | |
| usage | exit 2 | exit 2 |
| internal | exit 1 | exit 1 |
| finding | | ` + "`verify`" + ` exits 4 |

A halt is not passed by restarting. It means that going on could lose or double
rows, or cannot work at all. Postgres keeps the WAL meanwhile, so a halt must not
be left alone: see [slots and WAL](operations.md#slots-and-wal).

In the commands below names are the defaults: slot ` + "`outbox_relay`" + `, publication
` + "`outbox_pub`" + `, table ` + "`outbox.events`" + `, topics ` + "`outbox.events`" + `, ` + "`outbox.events.dlq`" + `
and ` + "`outbox.outbox.checkpoint`" + `. ` + "`outbox-relay config show`" + ` prints yours.
`

func render(t *testing.T, all []entry) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(intro)
	chapter := ""
	for _, e := range all {
		if c := chapterOf(e.id); c != chapter {
			chapter = c
			fmt.Fprintf(&b, "\n## %s\n", c)
		}
		fmt.Fprintf(&b, "\n### %s\n\n`%s` · %s · %s · exit status %s\n\n", e.id, e.name, e.class, classTexts[e.class], exits[e.class])
		fmt.Fprintf(&b, "- why: %s\n- fix: %s\n", escape(e.why), escape(e.fix))
		text, err := os.ReadFile(filepath.Join("pages", strings.ToLower(e.id)+".md"))
		switch {
		case err == nil:
			b.WriteString("\n")
			b.Write(text)
		case !errors.Is(err, fs.ErrNotExist):
			t.Fatal(err)
		}
	}
	return b.String()
}

// escape keeps <broker> from being taken for markup; what is in backquotes is
// code already.
func escape(s string) string {
	parts := strings.Split(s, "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = strings.NewReplacer("<", "&lt;", ">", "&gt;", "*", `\*`).Replace(parts[i])
	}
	return strings.Join(parts, "`")
}

// docs/errors.md has a section for every code, as the registry says it.
func TestErrorsPage(t *testing.T) {
	t.Parallel()
	all := registry(t)
	got := render(t, all)
	if *update {
		if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/errors.md is not what `make docs` writes (-file +registry):\n%s", diff)
	}
	pages, err := filepath.Glob("pages/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		id := strings.ToUpper(strings.TrimSuffix(filepath.Base(p), ".md"))
		if !slices.ContainsFunc(all, func(e entry) bool { return e.id == id }) {
			t.Errorf("%s belongs to no code", p)
		}
	}
}

// The line that every error ends with leads to its section.
func TestTextLeadsToThePage(t *testing.T) {
	t.Parallel()
	text := fault.New(fault.Gap, "slot is ahead").Text()
	if !strings.HasSuffix(text, "\n  docs: docs/errors.md#obx-4008") {
		t.Errorf("%s", text)
	}
}
