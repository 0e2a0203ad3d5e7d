// Package docs holds the documentation to the program: links lead somewhere,
// names that are mentioned exist, and what is to be typed can be typed.
package docs

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/holdwall/outbox-relay/dlq"
)

const root = "../.."

// pages returns the texts of all pages by their path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			rel, err := filepath.Rel(root, name)
			if err != nil {
				t.Fatal(err)
			}
			all[filepath.ToSlash(rel)] = read(t, name)
		}
	}
	if all["README.md"] == "" || all["docs/errors.md"] == "" {
		t.Fatalf("pages are missing: found %d", len(all))
	}
	return all
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	notWord = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	fence   = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")
)

// anchors returns the anchors of a page, as code hosts make them of headings.
func anchors(text string) []string {
	text = fence.ReplaceAllString(text, "")
	var all []string
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		all = append(all, strings.ReplaceAll(notWord.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}

func exists(name string) bool {
	_, err := os.Stat(filepath.Join(root, filepath.FromSlash(name)))
	return err == nil
}

// guide knows where links may lead. The anchors of a page are looked for once:
// thousands of links lead to the page of errors.
type guide struct {
	pages   map[string]string
	anchors map[string][]string
}

// leads tells what is wrong with a link to a page from the root.
func (g *guide) leads(target, anchor string) string {
	if !exists(target) {
		return "there is no " + target
	}
	if anchor == "" {
		return ""
	}
	text, page := g.pages[target]
	known, seen := g.anchors[target]
	if page && !seen {
		known = anchors(text)
		g.anchors[target] = known
	}
	if !slices.Contains(known, anchor) {
		return target + " has no heading #" + anchor
	}
	return ""
}

func TestLinks(t *testing.T) {
	t.Parallel()
	all := pages(t)
	g := &guide{pages: all, anchors: map[string][]string{}}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for name, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target, anchor, _ := strings.Cut(m[1], "#")
			if target == "" {
				target = name
			} else {
				target = path.Join(path.Dir(name), target)
			}
			if bad := g.leads(target, anchor); bad != "" {
				t.Errorf("%s links to %s: %s", name, m[1], bad)
			}
		}
	}
}

// What the program says about pages leads there too.
func TestPagesNamedInTheSource(t *testing.T) {
	t.Parallel()
	g := &guide{pages: pages(t), anchors: map[string][]string{}}
	mention := regexp.MustCompile(`\bdocs/([a-z]+\.md|decisions/[0-9]{4})(#[a-z0-9-]+)?`)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, m := range mention.FindAllSubmatch(text, -1) {
			target, anchor := "docs/"+string(m[1]), strings.TrimPrefix(string(m[2]), "#")
			if number, ok := strings.CutPrefix(target, "docs/decisions/"); ok {
				found, _ := filepath.Glob(filepath.Join(root, "docs/decisions", number+"-*.md"))
				if len(found) != 1 {
					t.Errorf("%s mentions %s, which does not exist", name, target)
				}
			} else if bad := g.leads(target, anchor); bad != "" {
				t.Errorf("%s mentions %s: %s", name, m[0], bad)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Settings, codes, commands of make and headers that are mentioned exist, and
// every header has its place in the public contract.
func TestNames(t *testing.T) {
	t.Parallel()
	all := pages(t)
	variable := regexp.MustCompile(`\b(?:OUTBOX|KAFKA|HEALTH|LOG|DATABASE)_[A-Z][A-Z_]*[A-Z]\b`)
	ofTests := regexp.MustCompile(`^OUTBOX_(TEST|CHAOS|CRASH)`)
	code := regexp.MustCompile(`\bOBX-[0-9]{4}\b`)
	target := regexp.MustCompile("(?m)(?:`|^)make ([a-z]+)")
	makefile := read(t, filepath.Join(root, "Makefile"))
	for name, text := range all {
		for _, v := range variable.FindAllString(text, -1) {
			stage := v == string(dlq.KafkaProduce)
			_, isPage := all["docs/"+v+".md"]
			if !stage && !isPage && !ofTests.MatchString(v) && !strings.Contains(all["docs/config.md"], "`"+v+"`") {
				t.Errorf("%s mentions %s, which is no setting", name, v)
			}
		}
		for _, c := range code.FindAllString(text, -1) {
			if !strings.Contains(all["docs/errors.md"], "\n### "+c+"\n") {
				t.Errorf("%s mentions %s, which is no code", name, c)
			}
		}
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s says make %s", name, m[1])
			}
		}
	}
	header := regexp.MustCompile(`(?m)^\s*[hH]eader\w+\s*= "([^"]+)"`)
	n := 0
	for _, source := range []string{"outbox/header.go", "dlq/record.go"} {
		for _, m := range header.FindAllStringSubmatch(read(t, filepath.Join(root, source)), -1) {
			n++
			if !strings.Contains(all["docs/records.md"], "`"+m[1]+"`") {
				t.Errorf("docs/records.md does not have the header %s", m[1])
			}
		}
	}
	if n < 30 {
		t.Errorf("%d headers found in the source", n)
	}
}

// What is to be typed into a shell can at least be read by one, and so can what
// CI runs.
func TestShell(t *testing.T) {
	t.Parallel()
	n := 0
	for name, text := range pages(t) {
		for _, m := range fence.FindAllStringSubmatch(text, -1) {
			if m[1] != "sh" {
				continue
			}
			n++
			parse(t, name, "sh", m[2])
		}
	}
	if n < 10 {
		t.Errorf("%d snippets found", n)
	}
	if _, err := exec.LookPath("bash"); err != nil {
		return // what runs in CI is no matter for a machine without bash
	}
	for _, script := range []string{".ci/run", ".ci/fuzz"} {
		parse(t, script, "bash", read(t, filepath.Join(root, script)))
	}
}

func parse(t *testing.T, name, shell, text string) {
	t.Helper()
	cmd := exec.Command(shell, "-n")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%s: %v: %s\n%s", name, err, out, text)
	}
}

// The Go of the README is an example that is compiled with the tests.
func TestGoOfTheReadme(t *testing.T) {
	t.Parallel()
	example := strings.ReplaceAll(read(t, filepath.Join(root, "outbox/example_test.go")), "\n\t", "\n")
	n := 0
	for _, m := range fence.FindAllStringSubmatch(pages(t)["README.md"], -1) {
		if m[1] != "go" {
			continue
		}
		n++
		if !strings.Contains(example, m[2]) {
			t.Errorf("outbox/example_test.go does not have:\n%s", m[2])
		}
	}
	if n == 0 {
		t.Error("the README has no Go")
	}
}
