package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/holdwall/outbox-relay/outbox"
)

// outcome of a transaction.
type outcome uint8

const (
	undone outcome = iota
	committed
	unknown // COMMIT was sent, and no answer came
)

// writer runs transactions, one after the other, on one connection.
type writer struct {
	cfg    Config
	config *pgx.ConnConfig
	table  outbox.Table
	id     int
	plan   *planner
	conn   *pgx.Conn
	totals Totals
}

// copyFrom is the number of rows from which COPY is used.
const copyFrom = 100

var columns = []string{"id", "aggregatetype", "aggregateid", "type", "payload", "headers", "topic", "kafka_partition", "created_at"}

func (w *writer) insert() string {
	return "INSERT INTO " + w.table.SQL() + ` (id, aggregatetype, aggregateid, type, payload, headers, topic, kafka_partition, created_at)
		SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[], $7::text[], $8::int[], $9::timestamptz[])`
}

const take = `INSERT INTO outbox_load.counter AS c (key, n) VALUES ($1, $2)
	ON CONFLICT (key) DO UPDATE SET n = c.n + excluded.n RETURNING n`

// transact does one transaction. A broken connection is no error of the
// writer's: what it left undone is counted, and the next call connects again.
func (w *writer) transact(ctx context.Context, pl plan) error {
	if w.totals.Kinds == nil {
		w.totals.Kinds = map[string]int{}
	}
	w.totals.Kinds[string(pl.kind)]++
	poison, err := w.begin(ctx, &pl)
	out := undone
	if err == nil {
		out, err = w.end(ctx, &pl)
	}
	if err != nil && w.conn != nil && !w.conn.IsClosed() {
		// Whatever state the transaction is in, a new connection has none.
		w.close()
	}
	switch out {
	case committed:
		w.totals.Transactions++
		w.totals.Rows += pl.rows(false)
		w.totals.addPoison(poison)
		for _, n := range poison {
			w.totals.Poison += n
		}
	case unknown:
		w.totals.Unknown++
		w.totals.UnknownRows += pl.rows(false)
	default:
		w.totals.RolledBack++
		w.totals.UndoneRows += pl.rows(false)
	}
	w.totals.UndoneRows += pl.rows(true)
	return fatal(err)
}

// fatal keeps the errors that trying again cannot cure: those of statements,
// unless Postgres is going away or chose us as the victim of a deadlock.
func fatal(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return nil
	}
	switch pg.Code[:2] {
	case "57", "08", "40", "53", "25": // going away, connection, deadlock, resources, timed out in a transaction
		return nil
	}
	return fmt.Errorf("write outbox rows: %w", err)
}

// begin opens the transaction and inserts its rows.
func (w *writer) begin(ctx context.Context, pl *plan) (poison map[Poison]int, err error) {
	if _, err := w.conn.Exec(ctx, "BEGIN"); err != nil {
		return nil, err
	}
	poison = map[Poison]int{}
	n := 0
	for _, pt := range pl.parts {
		if pl.kind == savepoint {
			if _, err := w.conn.Exec(ctx, "SAVEPOINT part"); err != nil {
				return nil, err
			}
		}
		rows, err := w.number(ctx, pl, pt, n)
		if err != nil {
			return nil, err
		}
		n += len(rows)
		if err := w.put(ctx, rows); err != nil {
			return nil, err
		}
		if pt.undone {
			if _, err := w.conn.Exec(ctx, "ROLLBACK TO SAVEPOINT part"); err != nil {
				return nil, err
			}
			continue
		}
		for i := range rows {
			if rows[i].poison != "" {
				poison[rows[i].poison]++
			}
		}
	}
	return poison, nil
}

// number takes the numbers for a part's keys and builds its rows.
func (w *writer) number(ctx context.Context, pl *plan, pt part, first int) ([]row, error) {
	rows := make([]row, 0, len(pt.keys))
	for i := 0; i < len(pt.keys); {
		n := 1
		for i+n < len(pt.keys) && pt.keys[i+n] == pt.keys[i] {
			n++
		}
		var last int64
		if err := w.conn.QueryRow(ctx, take, pt.keys[i], n).Scan(&last); err != nil {
			return nil, err
		}
		for k := range n {
			seq := uint32(last) - uint32(n-1-k)
			r, err := w.plan.row(pl, first+len(rows), pt.keys[i], seq, pt.undone || pl.kind == rollback)
			if err != nil {
				return nil, err
			}
			rows = append(rows, r)
		}
		i += n
	}
	return rows, nil
}

func (w *writer) put(ctx context.Context, rows []row) error {
	if len(rows) >= copyFrom {
		name := pgx.Identifier{w.table.Name}
		if w.table.Schema != "" {
			name = pgx.Identifier{w.table.Schema, w.table.Name}
		}
		_, err := w.conn.CopyFrom(ctx, name, columns, pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) {
			r := &rows[i]
			return []any{[16]byte(r.id), aggregate, r.key, event, r.payload, r.headers, r.topic, r.partition, r.created}, nil
		}))
		return err
	}
	var a arrays
	for i := range rows {
		a.add(&rows[i])
	}
	_, err := w.conn.Exec(ctx, w.insert(), a.ids, a.aggregates, a.keys, a.types, a.payloads, a.headers, a.topics, a.partitions, a.created)
	return err
}

const (
	aggregate = "load"
	event     = "load.written"
)

// arrays are the columns of a multi-row insert.
type arrays struct {
	ids                     [][16]byte
	aggregates, keys, types []string
	payloads, headers       []string
	topics                  []*string
	partitions              []*int32
	created                 []pgtype.Timestamptz
}

func (a *arrays) add(r *row) {
	a.ids = append(a.ids, r.id)
	a.aggregates, a.keys, a.types = append(a.aggregates, aggregate), append(a.keys, r.key), append(a.types, event)
	a.payloads, a.headers = append(a.payloads, string(r.payload)), append(a.headers, string(r.headers))
	a.topics, a.partitions = append(a.topics, r.topic), append(a.partitions, r.partition)
	a.created = append(a.created, r.created)
}

// end brings the transaction to its end, whichever was planned.
func (w *writer) end(ctx context.Context, pl *plan) (outcome, error) {
	switch pl.kind {
	case rollback:
		_, err := w.conn.Exec(ctx, "ROLLBACK")
		return undone, err
	case killed:
		return w.leave(ctx)
	case prepared:
		gid := w.gid(pl.tx)
		// From here on the transaction outlives the connection; see settle.
		if _, err := w.conn.Exec(ctx, "PREPARE TRANSACTION '"+gid+"'"); err != nil {
			return doubt(err), err
		}
		_, err := w.conn.Exec(ctx, "COMMIT PREPARED '"+gid+"'")
		if err != nil {
			return unknown, err
		}
		return committed, nil
	}
	tag, err := w.conn.Exec(ctx, "COMMIT")
	if err != nil {
		return unknown, err
	}
	if tag.String() != "COMMIT" {
		return undone, fmt.Errorf("commit: the answer is %s", tag)
	}
	return committed, nil
}

// doubt: an answer of the server is one; silence is not.
func doubt(err error) outcome {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code[:2] != "57" {
		return undone
	}
	return unknown
}

// leave sends COMMIT and breaks the connection without reading the answer.
func (w *writer) leave(ctx context.Context) (outcome, error) {
	pg := w.conn.PgConn()
	pg.Frontend().SendQuery(&pgproto3.Query{String: "COMMIT"})
	err := pg.Frontend().Flush()
	if cut := pg.Conn().Close(); err == nil {
		err = cut
	}
	w.close()
	return unknown, err
}

// connect returns when there is a connection, or with the context's end.
func (w *writer) connect(ctx context.Context) error {
	for w.conn == nil || w.conn.IsClosed() {
		conn, err := pgx.ConnectConfig(ctx, w.config)
		if err == nil {
			w.conn = conn
			w.totals.Connections++
			if err = w.settle(ctx); err == nil {
				return nil
			}
			w.close()
		}
		var pg *pgconn.PgError
		if errors.As(err, &pg) && fatal(err) != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond): // between tries, not for an event
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// settle commits what this writer prepared and could not end. Left alone it
// would hold its keys for good.
func (w *writer) settle(ctx context.Context) error {
	if w.cfg.Mix.Prepared == 0 {
		return nil
	}
	rows, err := w.conn.Query(ctx, `SELECT gid FROM pg_prepared_xacts WHERE starts_with(gid, $1) AND database = current_database()`, w.gidPrefix())
	if err != nil {
		return err
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, gid := range gids {
		if _, err := w.conn.Exec(ctx, "COMMIT PREPARED '"+gid+"'"); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) gidPrefix() string { return fmt.Sprintf("load-%x-%d-", w.cfg.Run, w.id) }

func (w *writer) gid(tx int) string { return fmt.Sprint(w.gidPrefix(), tx) }

// close does not wait for a server that may be frozen.
func (w *writer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.conn.Close(ctx)
}
