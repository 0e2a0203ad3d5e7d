package outbox

import (
	"strings"
	"testing"
)

func TestSpanContext(t *testing.T) {
	t.Parallel()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for name, c := range map[string]struct{ text, parent, state string }{
		"as Java writes it": {"#Sat Nov 28 16:00:00 UTC 2026\ntraceparent=" + parent + "\n", parent, ""},
		"with a state":      {"#x\ntracestate=vendor\\=1,other\\=a\\:b\ntraceparent=" + parent + "\n", parent, "vendor=1,other=a:b"},
		"other separators":  {"traceparent : " + parent + "\r\ntracestate\tvendor=1", parent, "vendor=1"},
		"escaped by number": {"traceparent=" + strings.Replace(parent, "-", "\\u002d", 1), parent, ""},
		"another form":      {"uber-trace-id=4bf92f3577b34da6a3ce929d0e0e4736\\:00f067aa0ba902b7\\:0\\:1\n", "", ""},
		"no traceparent":    {"traceparent=00-short\ntracestate=vendor\\=1\n", "", ""},
		"upper case":        {"traceparent=" + strings.ToUpper(parent), "", ""},
		"a name alone":      {"traceparent", "", ""},
		"an escape alone":   {"traceparent=\\", "", ""},
		"a name of escapes": {"\\", "", ""},
		"nothing":           {"", "", ""},
		"comments":          {"#traceparent=" + parent + "\n!traceparent=" + parent, "", ""},
	} {
		if p, s := spanContext(c.text); p != c.parent || s != c.state {
			t.Errorf("%s: %q and %q", name, p, s)
		}
	}
}

func FuzzSpanContext(f *testing.F) {
	f.Add("#x\ntraceparent=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\ntracestate=a\\=\\u0031")
	f.Add("\\u12")
	f.Fuzz(func(t *testing.T, text string) {
		if p, s := spanContext(text); p != "" && !validParent(p) || p == "" && s != "" {
			t.Errorf("%q and %q", p, s)
		}
	})
}

// Debezium's column is read where the row says nothing else.
func TestSpanContextOfARow(t *testing.T) {
	t.Parallel()
	const debezium, own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	table := []Column{
		{"id", oidText},
		{"aggregatetype", oidText},
		{"aggregateid", oidText},
		{"type", oidText},
		{"payload", oidJSONB},
		{"traceparent", oidText},
		{"tracingspancontext", oidVarchar},
	}
	d, err := NewDecoder(DefaultColumns(), table)
	if err != nil {
		t.Fatal(err)
	}
	row := func(parent string) [][]byte {
		values := [][]byte{[]byte("1"), []byte("a"), []byte("b"), []byte("c"), []byte("{}"), nil, []byte("traceparent=" + debezium)}
		if parent != "" {
			values[5] = []byte(parent)
		}
		return values
	}
	for parent, want := range map[string]string{"": debezium, own: own} {
		var rec Record
		if err := d.Decode(row(parent), &rec); err != nil || rec.TraceParent != want {
			t.Errorf("%q, %v", rec.TraceParent, err)
		}
	}
	cols, err := ParseColumns("tracingspancontext=")
	if err != nil {
		t.Fatal(err)
	}
	if d, err = NewDecoder(cols, table); err != nil {
		t.Fatal(err)
	}
	var rec Record
	if err := d.Decode(row(""), &rec); err != nil || rec.TraceParent != "" {
		t.Errorf("a column that is not meant was read: %q, %v", rec.TraceParent, err)
	}
}
