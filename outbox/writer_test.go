package outbox

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
)

type statement struct {
	SQL  string
	Args []any
}

type recorder struct {
	got []statement
	err error
}

func (r *recorder) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	r.got = append(r.got, statement{sql, args})
	return pgconn.CommandTag{}, r.err
}

func TestAppendStatements(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cols, err := ParseColumns("payload=data,headers=")
	if err != nil {
		t.Fatal(err)
	}
	bytea, err := ParseColumns("payload=data,payload_bytes=data")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		table string
		cols  Columns
		recs  []Record
		want  statement
	}{
		{
			"five columns", "outbox.events", DefaultColumns(),
			[]Record{{ID: "1", AggregateType: "order", AggregateID: "7", Type: "created", Payload: []byte("{}")}},
			statement{
				`INSERT INTO "outbox"."events" ("id", "aggregatetype", "aggregateid", "type", "payload") VALUES ($1, $2, $3, $4, $5)`,
				[]any{"1", "order", "7", "created", "{}"},
			},
		},
		{
			"only what a record gives", "t", DefaultColumns(),
			[]Record{
				{ID: "1", AggregateType: "a", AggregateID: "b", Type: "c"},
				{ID: "2", AggregateType: "a", AggregateID: "b", Type: "c", Payload: []byte{0}, Binary: true, Headers: []Header{{"b", []byte(`"`)}, {"a", nil}}, Partition: PartitionOf(0), CreatedAt: at},
			},
			statement{
				`INSERT INTO "t" ("id", "aggregatetype", "aggregateid", "type", "payload", "payload_bytes", "headers", "kafka_partition", "created_at") VALUES ` +
					`($1, $2, $3, $4, $5, DEFAULT, DEFAULT, DEFAULT, DEFAULT), ($6, $7, $8, $9, DEFAULT, $10, $11, $12, $13)`,
				[]any{"1", "a", "b", "c", nil, "2", "a", "b", "c", []byte{0}, `{"b":"\"","a":""}`, int32(0), at},
			},
		},
		{
			"everything, other names", `"X".events`, cols,
			[]Record{{ID: "1", AggregateType: "a", AggregateID: "b", Type: "c", Payload: []byte("1"), Topic: "t", Key: "k", ContentType: "ct", SchemaVersion: "3", TraceParent: "tp", TraceState: "ts"}},
			statement{
				`INSERT INTO "X"."events" ("id", "aggregatetype", "aggregateid", "type", "data", "topic", "message_key", "content_type", "schema_version", "traceparent", "tracestate") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
				[]any{"1", "a", "b", "c", "1", "t", "k", "ct", "3", "tp", "ts"},
			},
		},
		{
			"a bytea payload column", "t", bytea,
			[]Record{{ID: "1", AggregateType: "a", AggregateID: "b", Type: "c", Payload: []byte{1}, Binary: true}},
			statement{`INSERT INTO "t" ("id", "aggregatetype", "aggregateid", "type", "data") VALUES ($1, $2, $3, $4, $5)`, []any{"1", "a", "b", "c", []byte{1}}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, err := NewWriter(tc.table, tc.cols)
			if err != nil {
				t.Fatal(err)
			}
			var tx recorder
			if err := w.Append(t.Context(), &tx, tc.recs...); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]statement{tc.want}, tx.got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAppendIDs(t *testing.T) {
	recs := []Record{{AggregateType: "a", Type: "b"}, {AggregateType: "a", Type: "b", ID: "mine"}, {AggregateType: "a", Type: "b"}}
	boom := errors.New("boom")
	if err := Append(t.Context(), &recorder{err: boom}, recs...); !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	first, err := uuid.Parse(recs[0].ID)
	if err != nil || first.Version() != 7 || recs[1].ID != "mine" || recs[2].ID <= recs[0].ID {
		t.Fatalf("ids are %q, %q, %q (%v)", recs[0].ID, recs[1].ID, recs[2].ID, err)
	}
	again := recs[0].ID
	if err := Append(t.Context(), new(recorder), recs...); err != nil || recs[0].ID != again {
		t.Errorf("a second try has another id, or fails: %v", err)
	}
	if err := Append(t.Context(), nil); err != nil {
		t.Errorf("nothing to append: %v", err)
	}
}

// One statement cannot have more than 65535 parameters.
func TestAppendChunks(t *testing.T) {
	recs := make([]Record, 30_000)
	for i := range recs {
		recs[i] = Record{ID: "x", AggregateType: "a", AggregateID: "b", Type: "c"}
	}
	var tx recorder
	if err := Append(t.Context(), &tx, recs...); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, s := range tx.got {
		if len(s.Args) > maxParameters {
			t.Errorf("a statement has %d parameters", len(s.Args))
		}
		total += len(s.Args)
	}
	if total != 5*len(recs) || len(tx.got) != 3 {
		t.Errorf("%d parameters in %d statements", total, len(tx.got))
	}
}

func TestAppendRefuses(t *testing.T) {
	good := Record{ID: "1", AggregateType: "a", AggregateID: "b", Type: "c"}
	for field, spoil := range map[string][]func(*Record){
		"AggregateType": {func(r *Record) { r.AggregateType = "" }, func(r *Record) { r.AggregateType = "\xff" }},
		"Type":          {func(r *Record) { r.Type = "" }},
		"AggregateID":   {func(r *Record) { r.AggregateID = "a\x00" }},
		"Partition":     {func(r *Record) { r.Partition = 3 }},
		"Headers": {
			func(r *Record) { r.Headers = []Header{{"", nil}} },
			func(r *Record) { r.Headers = []Header{{"outbox.lsn", nil}} },
			func(r *Record) { r.Headers = []Header{{"a", nil}, {"a", nil}} },
			func(r *Record) { r.Headers = []Header{{"a", []byte{0xff}}} },
			func(r *Record) { r.Headers = []Header{{"a\x00", nil}} },
		},
	} {
		for i, spoil := range spoil {
			bad := good
			spoil(&bad)
			var tx recorder
			err := Append(t.Context(), &tx, good, bad)
			var re *RecordError
			if !errors.As(err, &re) || re.Field != field || re.Index != 1 {
				t.Errorf("%s %d: got %v", field, i, err)
			}
			if len(tx.got) > 0 {
				t.Errorf("%s %d: something was sent", field, i)
			}
		}
	}
	shared, err := ParseColumns("topic=id")
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter("t", shared)
	if err != nil {
		t.Fatal(err)
	}
	good.Topic = "t"
	if err := w.Append(t.Context(), new(recorder), good); err == nil {
		t.Error("two fields were written to one column")
	}
	without, err := ParseColumns("topic=")
	if err != nil {
		t.Fatal(err)
	}
	if w, err = NewWriter("t", without); err != nil {
		t.Fatal(err)
	}
	if err := w.Append(t.Context(), new(recorder), good); err == nil {
		t.Error("a field without a column was dropped")
	}
	if _, err := NewWriter("a b", DefaultColumns()); err == nil {
		t.Error("a bad table name was taken")
	}
	if _, err := NewWriter("a", Columns{}); err == nil {
		t.Error("columns without names were taken")
	}
}

func TestSchema(t *testing.T) {
	got, err := Schema(`My."Out box"`)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != `CREATE SCHEMA IF NOT EXISTS "my"` || !strings.HasPrefix(got[1], `CREATE TABLE IF NOT EXISTS "my"."Out box" (`) || !strings.HasSuffix(got[1], ")") {
		t.Errorf("got %q", got)
	}
	for _, c := range DefaultColumns().names() {
		if c == "tracingspancontext" { // Debezium's, of tables that are older than ours
			continue
		}
		if !strings.Contains(got[1], "\n  "+c+" ") {
			t.Errorf("no column %s", c)
		}
	}
	if got, err = Schema("events"); err != nil || len(got) != 1 {
		t.Errorf("without a schema: %q, %v", got, err)
	}
	if _, err := Schema("a b"); err == nil {
		t.Error("a bad table name was taken")
	}
	f, err := Migrations().Open("0001_events.sql")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func (c Columns) names() []string {
	var names []string
	for _, f := range c.fields() {
		names = append(names, *f.name)
	}
	return names
}
