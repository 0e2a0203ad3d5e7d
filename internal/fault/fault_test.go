package fault

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// declared is a code as the registry spells it.
type declared struct {
	variable, id, name, class, why, fix string
}

// registry reads the source: codes are variables, which a program cannot list.
func registry(t *testing.T) []declared {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "registry.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []declared
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, v := range spec.Values {
			call, ok := v.(*ast.CallExpr)
			if !ok || len(call.Args) != 5 {
				t.Errorf("%s is not made by code()", spec.Names[i])
				continue
			}
			text := func(arg int) string {
				lit, ok := call.Args[arg].(*ast.BasicLit)
				if !ok {
					t.Errorf("argument %d of %s is no literal", arg, spec.Names[i])
					return ""
				}
				s, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Error(err)
				}
				return s
			}
			class, _ := call.Args[2].(*ast.Ident)
			all = append(all, declared{spec.Names[i].Name, text(0), text(1), class.Name, text(3), text(4)})
		}
		return false
	})
	return all
}

var (
	idForm   = regexp.MustCompile(`^OBX-[1-59][0-9]{3}$`)
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	sentence = regexp.MustCompile(`^(The|A|An|It|This|No|There) |\.$`)
)

// What can be in which range: 1xxx configuration, 2xxx rows, 3xxx Postgres,
// 4xxx state of the relay, 5xxx Kafka, 9xxx internal. The longer prefix counts:
// 21xx is the dlq tool, 22xx consumers and pipelines, 41xx and 51xx findings.
var classesByRange = map[string]string{
	"1": "Usage", "2": "Reject", "3": "Retry Halt", "4": "Retry Halt", "5": "Retry Halt", "9": "Halt Internal",
	"21": "Reject Retry Halt Usage Finding", "22": "Reject Retry Usage", "41": "Finding", "42": "Finding Retry Halt Usage", "51": "Finding",
	"34": "Retry Halt Usage Finding", "435": "Retry Halt Usage Finding", "436": "Retry Halt Usage Finding", // slots and cleanup, explain and wait
	"13": "Finding", "32": "Finding", "33": "Finding", // found by doctor
	"106": "Usage Retry", // what surrounds a process
}

func classesOf(id string) string {
	digits := strings.TrimPrefix(id, "OBX-")
	for _, n := range []int{3, 2} {
		if classes, ok := classesByRange[digits[:n]]; ok {
			return classes
		}
	}
	return classesByRange[digits[:1]]
}

// A code is for ever: unique, in its range, and it says why and what to do.
func TestRegistry(t *testing.T) {
	all := registry(t)
	if len(all) < 50 {
		t.Fatalf("only %d codes were read", len(all))
	}
	ids, names := map[string]string{}, map[string]string{}
	last := ""
	for _, d := range all {
		switch {
		case !idForm.MatchString(d.id):
			t.Errorf("%s has the ID %q", d.variable, d.id)
			continue
		case !nameForm.MatchString(d.name):
			t.Errorf("%s has the name %q", d.id, d.name)
		case d.why == "" || d.fix == "":
			t.Errorf("%s %s says not why or not what to do", d.id, d.name)
		case sentence.MatchString(d.why):
			t.Errorf("%s: the why %q is no clause", d.id, d.why)
		}
		if other, taken := ids[d.id]; taken {
			t.Errorf("%s belongs to %s and to %s", d.id, other, d.variable)
		}
		if other, taken := names[d.name]; taken {
			t.Errorf("the name %s belongs to %s and to %s", d.name, other, d.id)
		}
		ids[d.id], names[d.name] = d.variable, d.id
		if d.id < last {
			t.Errorf("%s stands behind %s", d.id, last)
		}
		last = d.id
		if !strings.Contains(classesOf(d.id), d.class) {
			t.Errorf("%s %s is of class %s, and its range has %s", d.id, d.name, d.class, classesOf(d.id))
		}
	}
}

// Every class has a name and an exit status.
func TestClasses(t *testing.T) {
	for c, want := range map[Class]struct {
		name string
		exit int
	}{Halt: {"halt", 6}, Retry: {"retry", 3}, Reject: {"reject", 1}, Usage: {"usage", 2}, Internal: {"internal", 1}, Finding: {"finding", 4}} {
		if c.String() != want.name || c.ExitCode() != want.exit {
			t.Errorf("class %d is %s and exits %d", c, c, c.ExitCode())
		}
	}
	if new(Code).Class != Halt {
		t.Error("what nobody classified does not halt")
	}
}

func TestErrorText(t *testing.T) {
	cause := errors.New("cause")
	e := Wrap(cause, SlotHeld, "slot %s", "a")
	if got, want := e.Error(), "OBX-3102 slot a: cause"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := New(SlotHeld, "slot %s", "a").Error(), "OBX-3102 slot a"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if e.Reason() != SlotHeld.Why || e.Remedy() != SlotHeld.Fix {
		t.Errorf("why %q, fix %q", e.Reason(), e.Remedy())
	}
	want := "OBX-3102 slot a: cause\n  why: 100% this\n  fix: do b\n  docs: docs/errors.md#obx-3102"
	if got := e.WithWhy("100%% %s", "this").WithFix("do %s", "b").Text(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if SlotHeld.Why == e.Why || SlotHeld.Fix == e.Fix {
		t.Error("the code itself was changed")
	}
	if !errors.Is(e, cause) {
		t.Error("the cause is hidden")
	}
}

func TestCodeOf(t *testing.T) {
	plain := errors.New("plain")
	coded := fmt.Errorf("outer: %w", Wrap(plain, Gap, "inner"))
	for _, tc := range []struct {
		name string
		err  error
		code *Code
	}{
		{"none", nil, Unclassified},
		{"plain", plain, Unclassified},
		{"wrapped", coded, Gap},
		{"joined", errors.Join(plain, coded), Gap},
		{"the outermost counts", Wrap(coded, Fenced, "outermost"), Fenced},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := CodeOf(tc.err); got != tc.code {
				t.Errorf("got %s, want %s", got.ID, tc.code.ID)
			}
			if has := Has(tc.err, tc.code); has != (tc.code != Unclassified) {
				t.Errorf("Has is %t", has)
			}
			if tc.err == nil {
				return
			}
			if f := As(tc.err); f.Code != tc.code || !errors.Is(f, plain) {
				t.Errorf("As gives %v", f)
			}
		})
	}
}

func TestGuard(t *testing.T) {
	cause := errors.New("cause")
	if err := Guard(func() error { return cause })(); err != cause {
		t.Errorf("an error became %v", err)
	}
	if err := Guard(func() error { return nil })(); err != nil {
		t.Errorf("nil became %v", err)
	}
	err := Guard(func() error { panic("boom") })()
	if !Has(err, Panicked) || CodeOf(err).Class != Halt {
		t.Fatalf("a panic became %v", err)
	}
	for _, part := range []string{"OBX-9002 boom", "fault_test.go"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	var m map[string]int
	if err := Guard(func() error { m["x"] = 1; return nil })(); !Has(err, Panicked) {
		t.Errorf("a runtime error became %v", err)
	}
}
