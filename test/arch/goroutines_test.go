package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A package that starts goroutines has a test that fails when one is left.
func TestGoroutinesAreLookedAfter(t *testing.T) {
	root := filepath.Join("..", "..")
	starts, looks := map[string]string{}, map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := filepath.Dir(path)
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				if !strings.HasSuffix(name, "_test.go") {
					starts[dir] = name
				}
			case *ast.SelectorExpr:
				pkg, _ := n.X.(*ast.Ident)
				switch {
				case pkg != nil && (pkg.Name == "goleak" || pkg.Name == "harness" && n.Sel.Name == "Main"): // which asks it
					looks[dir] = true
				case n.Sel.Name == "Go" && !strings.HasSuffix(name, "_test.go"):
					starts[dir] = name // errgroup.Group, sync.WaitGroup
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(starts) < 5 {
		t.Fatalf("only %d packages start goroutines: the search is blind", len(starts))
	}
	for dir, name := range starts {
		if tests, err := filepath.Glob(filepath.Join(dir, "*_test.go")); err != nil || len(tests) == 0 {
			continue // a library of tests, which is judged in those that use it
		}
		if room, _ := filepath.Rel(root, dir); !looks[dir] {
			t.Errorf("%s starts goroutines (%s), and none of its tests asks goleak", room, name)
		}
	}
}
