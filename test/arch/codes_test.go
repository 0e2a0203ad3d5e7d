package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// registered is a code as internal/fault declares it.
type registered struct{ variable, id, name string }

// Each code that the program can show is shown by a test: named there by its
// variable, its number or its name.
func TestCodesAreTriggered(t *testing.T) {
	root := filepath.Join("..", "..")
	// The words of all files, each file read once: a search of everything for
	// each of hundreds of codes takes half a minute.
	word := regexp.MustCompile(`\bfault\.\w+\b|OBX-[0-9]{4}\b|\b[a-z0-9_]+\b`)
	code, tests := map[string]bool{}, map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "bin") {
			return filepath.SkipDir
		}
		registry := strings.HasSuffix(filepath.ToSlash(filepath.Dir(path)), "internal/fault")
		if d.IsDir() || registry || !strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, ".golden") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		into := code
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".golden") {
			into = tests
		}
		for _, w := range word.FindAll(b, -1) {
			into[string(w)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all := codes(t, filepath.Join(root, "internal", "fault", "registry.go"))
	if len(all) < 50 {
		t.Fatalf("only %d codes found: the search is blind", len(all))
	}
	for _, c := range all {
		if !tests["fault."+c.variable] && !tests[c.id] && !tests[c.name] {
			t.Errorf("%s %s is in no test", c.id, c.name)
		}
		if !code["fault."+c.variable] && !code[c.id] && c.variable != "Panicked" {
			t.Errorf("%s %s is used by nothing", c.id, c.name)
		}
	}
}

// codes reads the declarations `X = code("OBX-1", "x", ...)`.
func codes(t *testing.T, path string) []registered {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []registered
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		call, ok := spec.Values[0].(*ast.CallExpr)
		if !ok || len(call.Args) < 2 {
			return true
		}
		text := func(e ast.Expr) string {
			lit, _ := e.(*ast.BasicLit)
			s, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		all = append(all, registered{spec.Names[0].Name, text(call.Args[0]), text(call.Args[1])})
		return true
	})
	return all
}
