package recovery

import (
	"context"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// Parts are handed over at these sizes.
const (
	partRows  = 256
	partBytes = 128 << 10
)

// reader reads the chosen rows of a snapshot again, in the order in which they
// were numbered. It is for one goroutine.
type reader struct {
	rows     pgx.Rows
	chosen   []*audit.Rows
	relation *replication.Relation
	commit   pglogrepl.LSN
	n        int64  // number of the next row
	ord      uint64 // of the last row that was handed over
}

// read begins to read. The first skip of the chosen rows are passed over.
func read(ctx context.Context, tx pgx.Tx, cfg audit.Config, look audit.Search, commit pglogrepl.LSN, ord uint64, chosen ...*audit.Rows) (*reader, error) {
	r := &reader{chosen: chosen, commit: commit, ord: ord, relation: &replication.Relation{Schema: cfg.Table.Schema, Name: cfg.Table.Name}}
	for _, c := range cfg.Shape {
		r.relation.Columns = append(r.relation.Columns, replication.Column{Name: c.Name, TypeOID: c.TypeOID})
	}
	// The simple protocol gives text, which is what the stream gives the relay.
	args := []any{pgx.QueryExecModeSimpleProtocol}
	if !cfg.Since.IsZero() {
		args = append(args, cfg.Since)
	}
	var err error
	if r.rows, err = tx.Query(ctx, audit.Selection(cfg, look), args...); err != nil {
		return nil, fault.Wrap(err, fault.PostgresLost, "read table %s again", cfg.Table)
	}
	return r, nil
}

func (r *reader) close() {
	if r != nil {
		r.rows.Close()
	}
}

// skip passes over so many of the chosen rows.
func (r *reader) skip(count uint64) error {
	for count > 0 {
		ok, err := r.step()
		if err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.Unclassified, "%d rows are gone that a snapshot held", count)
		}
		count--
	}
	return nil
}

// step goes to the next chosen row; false: there is none.
func (r *reader) step() (bool, error) {
	for r.rows.Next() {
		n := r.n
		r.n++
		for _, set := range r.chosen {
			if set.Has(n) {
				return true, nil
			}
		}
	}
	if err := r.rows.Err(); err != nil {
		return false, fault.Wrap(err, fault.PostgresLost, "read the table again")
	}
	return false, nil
}

// next returns the next rows, or nil. Ord goes on where it was.
func (r *reader) next(most int) (*replication.Tx, error) {
	tx := &replication.Tx{CommitLSN: r.commit, Relation: r.relation}
	for len(tx.Rows) < min(partRows, most) && tx.Bytes < partBytes {
		ok, err := r.step()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		r.ord++
		values, size := copied(r.rows.RawValues()[:len(r.relation.Columns)])
		tx.Rows = append(tx.Rows, replication.Row{Values: values, Ord: r.ord, Seq: r.ord})
		tx.Bytes += size
	}
	if len(tx.Rows) == 0 {
		return nil, nil
	}
	return tx, nil
}

// copied takes values out of the memory of the connection, which uses it again.
func copied(raw [][]byte) (values [][]byte, size int) {
	for _, v := range raw {
		size += len(v)
	}
	values = make([][]byte, len(raw))
	buf := make([]byte, 0, size)
	for i, v := range raw {
		if v != nil {
			at := len(buf)
			buf = append(buf, v...)
			values[i] = buf[at:len(buf):len(buf)]
		}
	}
	return values, size
}
