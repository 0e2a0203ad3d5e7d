package outbox

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseColumns(t *testing.T) {
	got, err := ParseColumns(" payload=data, aggregateid = agg_id,created_at=")
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultColumns()
	want.Payload, want.AggregateID, want.CreatedAt = "data", "agg_id", ""
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if again, err := ParseColumns(got.String()); err != nil || again != got {
		t.Errorf("%q reads back as %+v, %v", got, again, err)
	}
	if got, err := ParseColumns("  "); err != nil || got != DefaultColumns() {
		t.Errorf("nothing reads as %+v, %v", got, err)
	}
	for in, word := range map[string]string{
		"payload":                          "field=column",
		"=x":                               "field=column",
		"payload=a,":                       "field=column",
		"paylod=data":                      "the fields are id, aggregatetype",
		"payload=a,payload=b":              "twice",
		"id=":                              "every event needs",
		"topic=" + strings.Repeat("x", 64): "63 bytes",
		"topic=a\x00b":                     "zero byte",
	} {
		if _, err := ParseColumns(in); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: got %v, want a word of %q", in, err, word)
		}
	}
}

func TestParseTable(t *testing.T) {
	for in, want := range map[string]string{
		"outbox.events":      `"outbox"."events"`,
		"Outbox.Events":      `"outbox"."events"`,
		"events":             `"events"`,
		` events `:           `"events"`,
		`"My Schema"."t.x"`:  `"My Schema"."t.x"`,
		`a."b""c"`:           `"a"."b""c"`,
		`x$1._y`:             `"x$1"."_y"`,
		`überall.ereignisse`: `"überall"."ereignisse"`,
	} {
		got, err := ParseTable(in)
		if err != nil || got.SQL() != want {
			t.Errorf("%q: got %s, %v, want %s", in, got.SQL(), err, want)
		}
	}
	for _, in := range []string{
		"", ".", "a.", ".a", "a.b.c", "a b", "a;b", `"a`, `"a"b`, `""`, "1a", "a-b", "a'b", "a\x00b", `"a` + "\x00" + `"`, `"` + "\xff" + `"`,
		strings.Repeat("x", 64), `"a"."b"."c"`,
	} {
		if got, err := ParseTable(in); err == nil {
			t.Errorf("%q was read as %+v", in, got)
		}
	}
}

func TestReserved(t *testing.T) {
	for _, name := range []string{"id", "type", "aggregatetype", "aggregateid", "content-type", "schema_version", "traceparent", "tracestate", "outbox.lsn", "outbox.", "outbox.new", "__connect.errors.topic"} {
		if !Reserved(name) {
			t.Errorf("%q is not reserved", name)
		}
	}
	for _, name := range []string{"ID", "tenant", "outbox", "x-outbox.lsn", ""} {
		if Reserved(name) {
			t.Errorf("%q is reserved", name)
		}
	}
}
