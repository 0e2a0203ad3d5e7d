package outbox_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// What Append writes, a real server gives back in text format as what Decode
// reads, whatever types the table has and however pgx sends parameters.
func TestPostgresRoundTrip(t *testing.T) {
	url := harness.Postgres(t).NewDatabase(t).URL()
	schema := fmt.Sprintf("outbox_test_%d", time.Now().UnixNano())
	connect := func(mode pgx.QueryExecMode) *pgx.Conn {
		cfg, err := pgx.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		cfg.DefaultQueryExecMode = mode
		cfg.RuntimeParams["timezone"] = "UTC"
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := connect(pgx.QueryExecModeCacheStatement)
	defer conn.Close(t.Context())
	for range 2 { // the second run must change nothing
		statements, err := outbox.Schema(schema + ".events")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range statements {
			if _, err := conn.Exec(t.Context(), s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	defer func() {
		if _, err := conn.Exec(t.Context(), "DROP SCHEMA "+schema+" CASCADE"); err != nil {
			t.Error(err)
		}
	}()
	for name, types := range map[string]string{
		"plain": "id uuid, aggregatetype varchar(255), aggregateid varchar(255), type varchar(255), payload json",
		"texts": "id text, aggregatetype text, aggregateid bigint, type text, payload text",
		"bytes": "payload bytea, id varchar(40), type text, aggregateid text, aggregatetype text",
	} {
		if _, err := conn.Exec(t.Context(), fmt.Sprintf("CREATE TABLE %s.%s (%s)", schema, name, types)); err != nil {
			t.Fatal(err)
		}
	}

	small := outbox.Record{AggregateType: "order", AggregateID: "4711", Type: "Plačeno", Payload: []byte(`{"a": "x\\y' $1"}`), ContentType: outbox.ContentJSON}
	text, bytea := small, small
	text.ContentType = outbox.ContentText
	bytea.ContentType, bytea.Binary, bytea.Payload = outbox.ContentBytes, true, []byte("\x00\\'\xff")
	full := small
	full.ContentType = "application/vnd.order+json"
	full.Topic, full.Key, full.Partition, full.SchemaVersion = "orders", "k", outbox.PartitionOf(0), "3"
	full.Headers = []outbox.Header{{Key: "a", Value: []byte("ü\n\"")}, {Key: "bb", Value: []byte{}}}
	full.TraceParent, full.TraceState = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x=1"
	full.CreatedAt = time.Date(2026, 2, 28, 23, 59, 59, 123456000, time.UTC)
	null := small
	null.Payload = nil
	for _, tc := range []struct {
		table, mapping string
		recs           []outbox.Record
	}{
		{"events", "", []outbox.Record{small, full, null, bytea}},
		{"plain", "", []outbox.Record{small, small}},
		{"texts", "", []outbox.Record{text}},
		{"bytes", "payload_bytes=payload", []outbox.Record{bytea}},
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
			t.Run(tc.table+"/"+mode.String(), func(t *testing.T) {
				cols, err := outbox.ParseColumns(tc.mapping)
				if err != nil {
					t.Fatal(err)
				}
				w, err := outbox.NewWriter(schema+"."+tc.table, cols)
				if err != nil {
					t.Fatal(err)
				}
				conn := connect(mode)
				defer conn.Close(t.Context())
				tx, err := conn.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Rollback(t.Context())
				recs := append([]outbox.Record(nil), tc.recs...)
				for i := range recs {
					if recs[i].ContentType != full.ContentType {
						recs[i].ContentType = "" // the decoder tells it by the column's type
					}
				}
				if err := w.Append(t.Context(), tx, recs...); err != nil {
					t.Fatal(err)
				}
				got := readAll(t, tx, schema+"."+tc.table, cols)
				for i := range recs {
					recs[i].ContentType = tc.recs[i].ContentType
					if i < len(got) && recs[i].CreatedAt.IsZero() {
						recs[i].CreatedAt = got[i].CreatedAt // the table's default
					}
					if i < len(got) && tc.table == "bytes" {
						recs[i].Binary = false // read from the payload column
					}
				}
				if diff := cmp.Diff(recs, got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// readAll reads a table in text format through the decoder, in the order of
// the inserts.
func readAll(t *testing.T, tx pgx.Tx, table string, cols outbox.Columns) []outbox.Record {
	t.Helper()
	results := tx.Conn().PgConn().ExecParams(t.Context(), "SELECT * FROM "+table+" ORDER BY ctid", nil, nil, nil, nil)
	var shape []outbox.Column
	for _, f := range results.FieldDescriptions() {
		shape = append(shape, outbox.Column{Name: strings.Clone(f.Name), TypeOID: f.DataTypeOID})
	}
	dec, err := outbox.NewDecoder(cols, shape)
	if err != nil {
		t.Fatal(err)
	}
	var out []outbox.Record
	for results.NextRow() {
		var values [][]byte
		for _, v := range results.Values() {
			if v != nil {
				v = append([]byte{}, v...) // the connection uses its buffer again
			}
			values = append(values, v)
		}
		var rec outbox.Record
		if err := dec.Decode(values, &rec); err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
	if _, err := results.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}
