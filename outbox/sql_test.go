package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "github.com/lib/pq"              // the driver "postgres"

	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/harness"
)

// The two drivers in use for database/sql write the same row as pgx itself,
// prepared or in the simple protocol, and only if the transaction commits.
func TestAppendSQL(t *testing.T) {
	db := harness.Postgres(t).NewDatabase(t)
	statements, err := outbox.Schema(outbox.DefaultTable)
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, statements...)
	recs := func() []outbox.Record {
		return []outbox.Record{
			{AggregateType: "order", AggregateID: "4711", Type: "Plačeno", Payload: []byte(`{"a": "x\\y' $1"}`)},
			{
				AggregateType: "order", AggregateID: "4712", Type: "Placed", Payload: []byte("\x00\\'\xff"), Binary: true,
				Topic: "orders", Key: "k", Partition: outbox.PartitionOf(3), SchemaVersion: "7", ContentType: "application/avro",
				Headers:     []outbox.Header{{Key: "a", Value: []byte("ü\n\"")}, {Key: "bb", Value: []byte{}}},
				TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", TraceState: "x=1",
				CreatedAt: time.Date(2026, 2, 28, 23, 59, 59, 123456000, time.UTC),
			},
			{AggregateType: "order", AggregateID: "4713", Type: "Gone"},
		}
	}
	url := db.URL()
	for _, tc := range []struct{ name, driver, url string }{
		{"pgx prepared", "pgx", url + "&timezone=UTC"},
		{"pgx simple", "pgx", url + "&timezone=UTC&default_query_exec_mode=simple_protocol"},
		{"pq", "postgres", url + "&timezone=UTC"},
		{"pq binary parameters", "postgres", url + "&timezone=UTC&binary_parameters=yes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn := db.Connect(t)
			if _, err := conn.Exec(t.Context(), "TRUNCATE outbox.events"); err != nil {
				t.Fatal(err)
			}
			pool, err := sql.Open(tc.driver, tc.url)
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			write := func(end func(*sql.Tx) error) []outbox.Record {
				tx, err := pool.BeginTx(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Rollback()
				recs := recs()
				if err := outbox.AppendSQL(t.Context(), tx, recs...); err != nil {
					t.Fatal(err)
				}
				if err := end(tx); err != nil {
					t.Fatal(err)
				}
				return recs
			}
			write((*sql.Tx).Rollback)
			want := write((*sql.Tx).Commit)
			want[0].ContentType, want[2].ContentType = outbox.ContentJSON, outbox.ContentJSON // the decoder's word for jsonb

			var got []outbox.Record
			err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), "SET LOCAL timezone = 'UTC'"); err != nil {
					return err
				}
				got = readAll(t, tx, outbox.DefaultTable, outbox.DefaultColumns())
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if i < len(got) && want[i].CreatedAt.IsZero() {
					want[i].CreatedAt = got[i].CreatedAt
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

type sqlRecorder struct {
	statement string
	args      []any
	err       error
}

func (r *sqlRecorder) ExecContext(_ context.Context, statement string, args ...any) (sql.Result, error) {
	r.statement, r.args = statement, args
	return nil, r.err
}

type pgxRecorder struct{ sqlRecorder }

func (r *pgxRecorder) Exec(ctx context.Context, statement string, args ...any) (pgconn.CommandTag, error) {
	_, err := r.ExecContext(ctx, statement, args...)
	return pgconn.CommandTag{}, err
}

// Both twins say the same to the server, and give back its errors.
func TestAppendSQLIsTheTwin(t *testing.T) {
	rec := outbox.Record{ID: "1", AggregateType: "a", AggregateID: "b", Type: "c", Payload: []byte("{}"), Partition: outbox.PartitionOf(1)}
	var one pgxRecorder
	if err := outbox.Append(t.Context(), &one, rec); err != nil {
		t.Fatal(err)
	}
	var two sqlRecorder
	if err := outbox.AppendSQL(t.Context(), &two, rec); err != nil {
		t.Fatal(err)
	}
	if one.statement != two.statement || !cmp.Equal(one.args, two.args) {
		t.Errorf("pgx gets %q %v, database/sql %q %v", one.statement, one.args, two.statement, two.args)
	}
	boom := errors.New("boom")
	if err := outbox.AppendSQL(t.Context(), &sqlRecorder{err: boom}, rec); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	var refused *outbox.RecordError
	if err := outbox.AppendSQL(t.Context(), &two, outbox.Record{}); !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}
