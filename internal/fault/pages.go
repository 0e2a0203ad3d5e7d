package fault

import (
	"embed"
	"strings"
)

//go:embed pages/*.md
var pages embed.FS

// Page returns what is to be said of a code beyond its why and fix, as Markdown:
// the section of docs/errors.md, for whoever has a relay and no manual at hand.
func Page(id string) (string, bool) {
	text, err := pages.ReadFile("pages/" + strings.ToLower(id) + ".md")
	return string(text), err == nil
}
