package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func fiveColumns(payload uint32) []Column {
	return []Column{{"id", 2950}, {"aggregatetype", 1043}, {"aggregateid", 1043}, {"type", 1043}, {"payload", payload}}
}

func row(values ...any) [][]byte {
	out := make([][]byte, len(values))
	for i, v := range values {
		if s, ok := v.(string); ok {
			out[i] = []byte(s)
		}
	}
	return out
}

func newDecoder(t testing.TB, cols Columns, table []Column) *Decoder {
	t.Helper()
	d, err := NewDecoder(cols, table)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDecodeFiveColumns(t *testing.T) {
	for _, tc := range []struct {
		name        string
		table       []Column
		row         [][]byte
		payload     []byte
		contentType string
	}{
		{"jsonb", fiveColumns(oidJSONB), row("i", "order", "7", "created", `{"a": 1}`), []byte(`{"a": 1}`), ContentJSON},
		{"json", fiveColumns(oidJSON), row("i", "order", "7", "created", `{"a":1 }`), []byte(`{"a":1 }`), ContentJSON},
		{"text", fiveColumns(oidText), row("i", "order", "7", "created", `a\x`), []byte(`a\x`), ContentText},
		{"empty text", fiveColumns(oidVarchar), row("i", "order", "7", "created", ""), []byte{}, ContentText},
		{"bytea", fiveColumns(oidBytea), row("i", "order", "7", "created", `\x00ff10`), []byte{0, 255, 16}, ContentBytes},
		{"empty bytea", fiveColumns(oidBytea), row("i", "order", "7", "created", `\x`), []byte{}, ContentBytes},
		{"bytea in escape form", fiveColumns(oidBytea), row("i", "order", "7", "created", `a\\b\000\377`), []byte("a\\b\x00\xff"), ContentBytes},
		{"number", fiveColumns(1700), row("i", "order", "7", "created", `1.50`), []byte(`1.50`), ContentText},
		{"null jsonb", fiveColumns(oidJSONB), row("i", "order", "7", "created", nil), nil, ContentJSON},
		{"null bytea", fiveColumns(oidBytea), row("i", "order", "7", "created", nil), nil, ""},
		{
			"other types and order",
			[]Column{{"payload", oidJSONB}, {"type", oidText}, {"aggregateid", oidInt8}, {"x", 600}, {"aggregatetype", oidBpchar}, {"id", oidInt8}},
			row("{}", "created", "7", nil, "order", "i"), []byte("{}"), ContentJSON,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var rec Record
			if err := newDecoder(t, DefaultColumns(), tc.table).Decode(tc.row, &rec); err != nil {
				t.Fatal(err)
			}
			want := Record{ID: "i", AggregateType: "order", AggregateID: "7", Type: "created", Payload: tc.payload, ContentType: tc.contentType}
			if diff := cmp.Diff(want, rec); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func fullTable() []Column {
	return append(fiveColumns(oidJSONB), []Column{
		{"payload_bytes", oidBytea},
		{"headers", oidJSONB},
		{"topic", oidVarchar},
		{"message_key", oidVarchar},
		{"kafka_partition", oidInt4},
		{"content_type", oidText},
		{"schema_version", oidInt4},
		{"traceparent", oidVarchar},
		{"tracestate", oidVarchar},
		{"created_at", oidTimestamptz},
	}...)
}

func TestDecodeFullRow(t *testing.T) {
	d := newDecoder(t, DefaultColumns(), fullTable())
	var rec Record
	err := d.Decode(row("i", "order", "7", "created", nil, `\x0102`, `{"a": "x", "b": 1}`, "orders", "k", "0",
		"application/avro", "3", "00-x-y-01", "z=1", "2026-01-02 03:04:05.678901+00"), &rec)
	if err != nil {
		t.Fatal(err)
	}
	want := Record{
		ID: "i", AggregateType: "order", AggregateID: "7", Type: "created",
		Payload: []byte{1, 2}, Binary: true, Topic: "orders", Key: "k", Partition: PartitionOf(0),
		Headers:     []Header{{"a", []byte("x")}, {"b", []byte("1")}},
		ContentType: "application/avro", SchemaVersion: "3", TraceParent: "00-x-y-01", TraceState: "z=1",
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC),
	}
	if diff := cmp.Diff(want, rec); diff != "" {
		t.Error(diff)
	}

	// NULL everywhere and empty everywhere both mean "not given".
	for _, v := range []any{nil, ""} {
		values := row("i", "order", "7", "created", "{}", nil, v, v, v, v, v, v, v, v, v)
		if err := d.Decode(values, &rec); err != nil {
			t.Fatal(err)
		}
		want := Record{ID: "i", AggregateType: "order", AggregateID: "7", Type: "created", Payload: []byte("{}"), ContentType: ContentJSON}
		if diff := cmp.Diff(want, rec); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDecodeRowErrors(t *testing.T) {
	good := row("i", "order", "7", "created", "{}", nil, "{}", nil, nil, nil, nil, nil, nil, nil, nil)
	for _, tc := range []struct {
		column, value string
		null          bool
		reason        string
	}{
		{column: "id", null: true, reason: ReasonDecode},
		{column: "id", value: "", reason: ReasonDecode},
		{column: "aggregatetype", null: true, reason: ReasonDecode},
		{column: "aggregateid", null: true, reason: ReasonDecode},
		{column: "type", null: true, reason: ReasonDecode},
		{column: "headers", value: `[]`, reason: ReasonDecode},
		{column: "headers", value: `{"a":`, reason: ReasonDecode},
		{column: "kafka_partition", value: "-1", reason: ReasonPartitionRange},
		{column: "kafka_partition", value: "2147483648", reason: ReasonPartitionRange},
		{column: "kafka_partition", value: "x", reason: ReasonPartitionRange},
		{column: "created_at", value: "infinity", reason: ReasonDecode},
		{column: "created_at", value: "-infinity", reason: ReasonDecode},
		{column: "created_at", value: "0044-03-15 12:00:00+00 BC", reason: ReasonDecode},
		{column: "created_at", value: "02/01/2026 03:04:05 UTC", reason: ReasonDecode},
	} {
		t.Run(tc.column+"="+tc.value, func(t *testing.T) {
			values := append([][]byte(nil), good...)
			for i, c := range fullTable() {
				if c.Name == tc.column {
					values[i] = []byte(tc.value)
					if tc.null {
						values[i] = nil
					}
				}
			}
			var rec Record
			err := newDecoder(t, DefaultColumns(), fullTable()).Decode(values, &rec)
			var re *RowError
			if !errors.As(err, &re) || re.Column != tc.column || re.Reason != tc.reason {
				t.Fatalf("got %v", err)
			}
			// A letter needs what could be read.
			if tc.column != "type" && rec.Type != "created" || string(rec.Payload) != "{}" {
				t.Errorf("the rest of the row was not read: %+v", rec)
			}
		})
	}
	var rec Record
	if err := newDecoder(t, DefaultColumns(), fullTable()).Decode(good[:5], &rec); err == nil {
		t.Error("a row with fewer columns than its table was read")
	}
	d := newDecoder(t, DefaultColumns(), fiveColumns(oidBytea))
	for _, v := range []string{`\x0`, `\xzz`, `a\`, `\400`, `\08`} {
		if err := d.Decode(row("i", "a", "b", "c", v), &rec); err == nil || string(rec.Payload) != v {
			t.Errorf("bytea %q: error %v, payload %q", v, err, rec.Payload)
		}
	}
}

func TestNewDecoderErrors(t *testing.T) {
	var missing *MissingColumnError
	if _, err := NewDecoder(DefaultColumns(), fiveColumns(oidJSONB)[1:]); !errors.As(err, &missing) || missing.Column != "id" {
		t.Errorf("a needed column: got %v", err)
	}
	cols, err := ParseColumns("topic=kafka_topic")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewDecoder(cols, fiveColumns(oidJSONB)); !errors.As(err, &missing) || missing.Column != "kafka_topic" {
		t.Errorf("a column that was named: got %v", err)
	}
	var wrong *ColumnTypeError
	withTime := append(fiveColumns(oidJSONB), Column{"created_at", oidInt8})
	if _, err := NewDecoder(DefaultColumns(), withTime); !errors.As(err, &wrong) || wrong.Column != "created_at" {
		t.Errorf("a column of another type: got %v", err)
	}
	if cols, err = ParseColumns("created_at="); err != nil {
		t.Fatal(err)
	}
	if _, err := NewDecoder(cols, withTime); err != nil {
		t.Errorf("a column that was mapped away: got %v", err)
	}
	domain := append(fiveColumns(oidJSONB), Column{"created_at", 20000})
	if _, err := NewDecoder(DefaultColumns(), domain); err != nil {
		t.Errorf("a column of a user's type: got %v", err)
	}
	if _, err := NewDecoder(Columns{}, domain); err == nil {
		t.Error("columns without names were taken")
	}
}

func TestParseTimestamp(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"2026-01-02 03:04:05.678901+00", "2026-01-02T03:04:05.678901Z"},
		{"2026-01-02 03:04:05+00", "2026-01-02T03:04:05Z"},
		{"2026-01-02 03:04:05", "2026-01-02T03:04:05Z"},
		{"2026-01-02 03:04:05.5", "2026-01-02T03:04:05.5Z"},
		{"2026-01-02 03:04:05+05:30", "2026-01-01T21:34:05Z"},
		{"2026-01-02 03:04:05-08", "2026-01-02T11:04:05Z"},
		{"1890-01-02 03:04:05+00:19:32", "1890-01-02T02:44:33Z"},
		{"2000-02-29 23:59:59.999999+00", "2000-02-29T23:59:59.999999Z"},
		{"9999-12-31 23:59:59+00", "9999-12-31T23:59:59Z"},
		{"0001-01-01 00:00:00+00", "0001-01-01T00:00:00Z"},
		{"1900-02-29 00:00:00+00", ""},
		{"2026-13-01 00:00:00+00", ""},
		{"2026-00-01 00:00:00+00", ""},
		{"2026-01-00 00:00:00+00", ""},
		{"2026-01-02 24:00:00+00", ""},
		{"2026-01-02 03:04:05.+00", ""},
		{"2026-01-02 03:04:05.1234567890+00", ""},
		{"2026-01-02 03:04:05+0", ""},
		{"2026-01-02 03:04:05+00:00:00:00", ""},
		{"2026-01-02 03:04:05+00 BC", ""},
		{"10000-01-02 03:04:05+00", ""},
		{"2026-01-02T03:04:05+00", ""},
		{"infinity", ""},
	} {
		got, ok := parseTimestamp([]byte(tc.in))
		if tc.want == "" {
			if ok {
				t.Errorf("%q was read as %v", tc.in, got)
			}
			continue
		}
		want, err := time.Parse(time.RFC3339Nano, tc.want)
		if err != nil {
			t.Fatal(err)
		}
		if !ok || !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("%q: got %v %v, want %v", tc.in, got, ok, want)
		}
	}
}

func TestDaysBefore(t *testing.T) {
	for day := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC); day.Year() < 2500; day = day.AddDate(0, 0, 1) {
		if got, want := daysBefore(day.Year(), int(day.Month()), day.Day()), day.Unix()/86400; got != want {
			t.Fatalf("%s: got %d, want %d", day.Format(time.DateOnly), got, want)
		}
	}
}

// Records that were decoded earlier must not change when later rows are
// decoded, or when their headers are appended to.
func TestDecodeKeepsRecordsApart(t *testing.T) {
	table := append(fiveColumns(oidBytea), Column{"headers", oidJSONB})
	d := newDecoder(t, DefaultColumns(), table)
	const rows = 2000
	recs := make([]Record, rows)
	for i := range recs {
		headers := "{"
		for j := range i % 20 {
			headers += fmt.Sprintf(`"h%d\u0041": "%d-%d",`, j, i, j)
		}
		headers += fmt.Sprintf(`"last": "%d"}`, i)
		payload := fmt.Sprintf(`\x%x`, bytes.Repeat([]byte{byte(i)}, i%3000))
		if err := d.Decode(row(fmt.Sprint(i), "a", "b", "c", payload, headers), &recs[i]); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			_ = append(recs[i-1].Headers, Header{Key: "intruder"})
			_ = append(recs[i-1].Payload, 'x')
		}
	}
	for i, rec := range recs {
		if len(rec.Headers) != i%20+1 || rec.Headers[i%20].Key != "last" || string(rec.Headers[i%20].Value) != fmt.Sprint(i) {
			t.Fatalf("headers of row %d are %v", i, rec.Headers)
		}
		for j := range i % 20 {
			if h := rec.Headers[j]; h.Key != fmt.Sprintf("h%dA", j) || string(h.Value) != fmt.Sprintf("%d-%d", i, j) {
				t.Fatalf("header %d of row %d is %v", j, i, h)
			}
		}
		if !bytes.Equal(rec.Payload, bytes.Repeat([]byte{byte(i)}, i%3000)) {
			t.Fatalf("payload of row %d changed", i)
		}
	}
}

func TestPartition(t *testing.T) {
	for _, n := range []int32{0, 1, 1<<31 - 1} {
		if got, ok := PartitionOf(n).Get(); !ok || got != n {
			t.Errorf("PartitionOf(%d) is %d, %v", n, got, ok)
		}
	}
	for _, p := range []Partition{0, PartitionOf(-1), 3} {
		if n, ok := p.Get(); ok {
			t.Errorf("Partition(%d) asks for %d", p, n)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	payload := `{"v": "` + string(bytes.Repeat([]byte("x"), 190)) + `"}`
	five := row("0198c0de-0000-7000-8000-000000000001", "order", "4711", "created", payload)
	full := append(append([][]byte(nil), five...), row(nil, `{"tenant": "a", "n": 1}`, nil, "k", nil, nil, "1", nil, nil, "2026-01-02 03:04:05.678901+00")...)
	for _, bc := range []struct {
		name  string
		table []Column
		row   [][]byte
	}{
		{"five", fiveColumns(oidJSONB), five},
		{"full", fullTable(), full},
		{"bytea", fiveColumns(oidBytea), row("0198c0de-0000-7000-8000-000000000001", "order", "4711", "created", fmt.Sprintf(`\x%x`, payload))},
	} {
		b.Run(bc.name, func(b *testing.B) {
			d := newDecoder(b, DefaultColumns(), bc.table)
			var rec Record
			b.ReportAllocs()
			for b.Loop() {
				if err := d.Decode(bc.row, &rec); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
