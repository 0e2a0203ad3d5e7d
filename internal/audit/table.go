package audit

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/sink"
)

// The table's part of the session: rows that a policy hides would count as
// deleted, so a policy is an error.
const settings = `SET LOCAL statement_timeout = 0; SET LOCAL row_security = off; SET LOCAL idle_in_transaction_session_timeout = 0`

// insufficientPrivilege is a SQLSTATE.
const insufficientPrivilege = "42501"

// estimate is a guess at the number of rows, for the progress alone.
const estimate = `SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM pg_partition_tree($1::regclass) t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf`

// topic is what rows belong to.
type topic struct {
	name       string
	log        uint32 // its number in entries
	partitions map[int32]*bounds
	counts     TopicCount
	retention  time.Duration // 0: not known, or for ever
	compacted  bool
}

// readTable reads every row in one snapshot and stores what the relay makes of
// it. The server sends the rows as they are read, so there is no cursor to hold.
func (a *audit) readTable(ctx context.Context) error {
	tx, err := a.cfg.Conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fault.Wrap(err, fault.PostgresLost, "begin")
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if _, err := tx.Exec(ctx, settings); err != nil {
		return fault.Wrap(err, fault.PostgresLost, "prepare the session")
	}
	// The first statement takes the snapshot before it is carried out: what is
	// visible has its commit record below this position.
	var at string
	if err := tx.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&at); err != nil {
		return fault.Wrap(err, fault.PostgresLost, "read the position of the WAL")
	}
	if a.snapshot, err = pglogrepl.ParseLSN(at); err != nil {
		return fault.Wrap(err, fault.WALDecode, "read the position of the WAL")
	}
	a.report.Snapshot = a.snapshot
	var total int64
	if a.cfg.Since.IsZero() {
		if err := tx.QueryRow(ctx, estimate, a.cfg.Table.SQL()).Scan(&total); err != nil {
			return fault.Wrap(err, fault.TableMissing, "look up table %s", a.cfg.Table)
		}
	}
	if err := a.readRows(ctx, tx, total); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fault.Wrap(err, fault.PostgresLost, "end the snapshot")
	}
	return nil
}

func (a *audit) readRows(ctx context.Context, tx pgx.Tx, total int64) error {
	p, err := a.newPress()
	if err != nil {
		return err
	}
	// The simple protocol gives text, which is what the stream gives the relay.
	args := []any{pgx.QueryExecModeSimpleProtocol}
	if !a.cfg.Since.IsZero() {
		args = append(args, a.cfg.Since)
	}
	rows, err := tx.Query(ctx, a.selection(), args...)
	if err != nil {
		return a.tableFault(err)
	}
	defer rows.Close()
	for rows.Next() {
		raw := rows.RawValues()
		e, err := p.press(raw[:len(a.cfg.Shape)])
		if err != nil {
			return err
		}
		e.offset = a.report.Rows
		if len(raw) > len(a.cfg.Shape) && isTrue(raw[len(a.cfg.Shape)]) {
			e.flags |= younger
		}
		if err := a.store.add(e); err != nil {
			return fault.Wrap(err, fault.Runtime, "write a temporary file")
		}
		if a.report.Rows++; a.report.Rows%every == 0 {
			if total < a.report.Rows {
				total = 0 // the estimate was too low: nobody knows
			}
			a.progress("table", a.report.Rows, total)
		}
	}
	a.progress("table", a.report.Rows, a.report.Rows)
	return a.tableFault(rows.Err())
}

func (a *audit) tableFault(err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pg) && pg.Code == insufficientPrivilege:
		return fault.Wrap(err, fault.NoRight, "read table %s", a.cfg.Table).WithFix("GRANT SELECT ON %s TO <role>;", a.cfg.Table.SQL())
	case errors.As(err, &pg):
		return fault.Wrap(err, fault.Unclassified, "read table %s", a.cfg.Table)
	}
	return fault.Wrap(err, fault.PostgresLost, "read table %s", a.cfg.Table)
}

// selection names the columns in the order of the table, as the decoder expects
// them.
func (a *audit) selection() string {
	var b strings.Builder
	for i, c := range a.cfg.Shape {
		b.WriteString([]string{"SELECT ", ", "}[min(i, 1)])
		b.WriteString(pgx.Identifier{c.Name}.Sanitize())
	}
	if a.search != nil && a.search.Younger != "" {
		b.WriteString(", " + a.search.Younger)
	}
	b.WriteString(" FROM " + a.cfg.Table.SQL())
	if !a.cfg.Since.IsZero() {
		b.WriteString(" WHERE " + pgx.Identifier{a.cfg.Columns.CreatedAt}.Sanitize() + " >= $1::timestamptz")
	}
	if a.search != nil {
		b.WriteString(" " + a.search.Order)
	}
	return b.String()
}

// press turns rows into entries with the relay's own decoder and router.
type press struct {
	a       *audit
	decoder *outbox.Decoder
	router  *sink.Router
	origin  *sink.Origin
	place   kgo.TopicPartitioner
	rec     outbox.Record
}

func (a *audit) newPress() (*press, error) {
	d, err := outbox.NewDecoder(a.cfg.Columns, a.cfg.Shape)
	if err != nil {
		return nil, fault.Wrap(err, fault.ColumnMissing, "table %s", a.cfg.Table)
	}
	r, err := sink.NewRouter(a.cfg.Router)
	if err != nil {
		return nil, err
	}
	return &press{
		a: a, decoder: d, router: r, origin: sink.NewOrigin(sink.OriginFacts{}, time.Now()),
		place: sink.Partitioner().ForTopic(""),
	}, nil
}

// press makes the entry of one row. The values are copied before they are
// decoded: the connection uses their memory again, and the decoder keeps it.
func (p *press) press(raw [][]byte) (*entry, error) {
	values := make([][]byte, len(raw))
	n := 0
	for _, v := range raw {
		n += len(v)
	}
	buf := make([]byte, 0, n)
	for i, v := range raw {
		if v != nil {
			at := len(buf)
			buf = append(buf, v...)
			values[i] = buf[at:len(buf):len(buf)]
		}
	}
	decodeErr := p.decoder.Decode(values, &p.rec)
	rec, routeErr := p.router.Route(p.origin, &p.rec, 1, 1)
	e := &entry{kind: kindRow, id: p.rec.ID}
	if decodeErr != nil || routeErr != nil {
		e.flags |= rejected
	} else if _, known := p.a.topics[rec.Topic]; !known {
		p.a.topics[rec.Topic] = &topic{name: rec.Topic, log: uint32(len(p.a.topics) + 1)}
	}
	e.topic = p.a.store.text(rec.Topic)
	p.a.hashes(e, rec.Key, rec.Value, rec.Headers)
	if n, ok := sink.ExplicitPartition(rec); ok {
		e.partition, e.flags = n, e.flags|hasPartition
	} else {
		// How many partitions there are is not known yet. The remainder by the
		// largest number is the hash itself.
		e.partition = int32(p.place.Partition(rec, math.MaxInt32))
	}
	if at := p.rec.CreatedAt; !at.IsZero() {
		e.created = at.UnixMicro()
	}
	return e, nil
}

// hashes fills in what is compared of a record. Headers that the relay adds say
// where a row comes from, which a row does not know.
func (a *audit) hashes(e *entry, key, value []byte, headers []kgo.RecordHeader) {
	e.key, e.value = a.store.hash(key), a.store.hash(value)
	if value == nil {
		e.value = 0 // a tombstone is not the empty text
	}
	h := uint64(14695981039346656037)
	for _, kv := range headers {
		if strings.HasPrefix(kv.Key, outbox.ReservedPrefix) || strings.HasPrefix(kv.Key, outbox.ReservedErrorsPrefix) {
			continue
		}
		value := kv.Value
		if kv.Key == outbox.HeaderTraceParent {
			value = traceOfRow(value, headers)
		}
		h = (h ^ a.store.text(kv.Key)) * 1099511628211
		h = (h ^ a.store.hash(value)) * 1099511628211
	}
	e.headers = h
}

// traceOfRow returns the traceparent that the row of a record had. A relay that traces
// puts a span of its own between the two and keeps the row's in another header; both
// are of one trace, or the record is not what its row says.
func traceOfRow(value []byte, headers []kgo.RecordHeader) []byte {
	// version-trace id-parent id-flags
	const head, length = 2 + 1 + 32 + 1, 55
	for _, kv := range headers {
		if kv.Key == outbox.HeaderTraceRow && len(kv.Value) == length && len(value) == length &&
			string(kv.Value[:head]) == string(value[:head]) {
			return kv.Value
		}
	}
	return value
}
