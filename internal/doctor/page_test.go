package doctor_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/internal/doctor"
)

var update = flag.Bool("update", false, "write the table of docs/doctor.md")

const (
	page  = "../../docs/doctor.md"
	begin = "<!-- Written by: make docs. The checks are in internal/doctor. -->\n"
	end   = "\n<!-- end of what make docs writes -->\n"
)

// docs/doctor.md has every check, as the code has it.
func TestDoctorPage(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("the page has no place for the table")
	}
	got := doctor.Page()
	if *update {
		if err := os.WriteFile(page, []byte(before+begin+got+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(table, got); diff != "" {
		t.Errorf("docs/doctor.md is not what `make docs` writes (-file +code):\n%s", diff)
	}
}
