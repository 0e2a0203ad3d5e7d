package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/holdwall/outbox-relay/internal/config"
)

var (
	shellBlock  = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$")
	inlineCode  = regexp.MustCompile("`(outbox-relay [^`]+)`")
	placeholder = regexp.MustCompile(`<[^<>]*>`)
	// What ends a command of a line of shell, outside of quotes.
	commandEnd = regexp.MustCompile(`^(\||;|&&|&$|>|<|#|2>|\))`)
)

// Every command that a page tells somebody to type can be parsed by the program:
// a flag that was renamed is found here, and not by whoever is on call.
func TestCommandsInDocs(t *testing.T) {
	t.Parallel()
	n, seen := 0, map[string]bool{}
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/decisions/*.md"} {
		pages, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			for _, block := range shellBlock.FindAllStringSubmatch(string(text), -1) {
				joined := strings.ReplaceAll(block[1], "\\\n", " ")
				for line := range strings.Lines(joined) {
					n += typed(t, seen, page, line)
				}
			}
			for _, m := range inlineCode.FindAllStringSubmatch(string(text), -1) {
				n += typed(t, seen, page, strings.ReplaceAll(m[1], "\n", " "))
			}
		}
	}
	if n < 50 {
		t.Errorf("%d commands found", n)
	}
}

// typed parses every command in a line, and returns their number.
func typed(t *testing.T, seen map[string]bool, where, line string) int {
	t.Helper()
	n := 0
	for {
		_, rest, found := strings.Cut(line, "outbox-relay ")
		if !found {
			return n
		}
		before := strings.TrimSuffix(line, "outbox-relay "+rest)
		line = rest
		if before != "" && !strings.ContainsAny(before[len(before)-1:], " \t`($/\n") || strings.HasSuffix(before, "-u ") {
			continue // part of a longer name, or the name of a unit
		}
		args := words(rest)
		if len(args) == 0 || !regexp.MustCompile(`^[a-z]+$|^--?[a-z-]+$`).MatchString(args[0]) {
			continue // prose: the program's name, and no command
		}
		n++
		for _, args := range each(args) {
			parses(t, seen, where, args)
		}
	}
}

// each spells out a|b in a command.
func each(args []string) [][]string {
	all := [][]string{nil}
	for _, arg := range args {
		var next [][]string
		for choice := range strings.SplitSeq(arg, "|") {
			for _, line := range all {
				next = append(next, append(line[:len(line):len(line)], choice))
			}
		}
		all = next
	}
	return all
}

func parses(t *testing.T, seen map[string]bool, where string, args []string) {
	t.Helper()
	line := strings.Join(args, "\x00")
	if seen[line] {
		return // pages repeat each other, and a parser is dear
	}
	seen[line] = true
	var cli grammar
	parser, err := newParser(process{stdout: io.Discard, stderr: io.Discard}, &cli, config.NewLoader(nil))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	// A noun may stand for its verbs, and a verb be mentioned without its object.
	short := err != nil && strings.HasPrefix(err.Error(), "expected ")
	if err != nil && !short && !errors.Is(err, errHelp) {
		t.Errorf("%s: outbox-relay %s: %v", where, strings.Join(args, " "), err)
	}
}

// words splits the first command of a line as a shell does.
func words(line string) []string {
	var all []string
	var word strings.Builder
	inWord, quote := false, rune(0)
	line = placeholder.ReplaceAllString(strings.TrimSpace(line), "x")
	for i, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case !inWord && commandEnd.MatchString(line[i:]):
			return all
		case r == ';' || r == ')' || r == '`':
			if inWord {
				all = append(all, word.String())
			}
			return all
		case r == ' ' || r == '\t':
			if inWord {
				all = append(all, word.String())
				word.Reset()
			}
			inWord = false
		default:
			inWord = true
			word.WriteRune(r)
		}
	}
	if inWord {
		all = append(all, word.String())
	}
	return all
}
