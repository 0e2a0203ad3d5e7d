package cleanup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// Config says what is removed.
type Config struct {
	Table     outbox.Table
	CreatedAt string // column
	Slot      string
	// Covered asks Kafka up to where it has all events; nil: no Kafka is
	// configured, and the slot alone counts.
	Covered func(context.Context) (pglogrepl.LSN, error)

	Retention time.Duration
	// Patience is how long the relay is waited for.
	Patience time.Duration
	// MaxRows bounds the rows that one run deletes; 0: any number.
	MaxRows int64
	// Pause is between two transactions.
	Pause time.Duration
	// Interval and Ahead are of the partitions to make.
	Interval time.Duration
	Ahead    int
	// DryRun counts and removes nothing.
	DryRun bool
	// Did is told of each statement that was carried out, or would be.
	Did func(sql string)
	// Progress is told how many pages of the table are done. May be nil.
	Progress func(done, total int64)
}

// Result is what a run has done; its keys are stable.
type Result struct {
	DryRun      bool      `json:"dry_run"`
	Partitioned bool      `json:"partitioned"`
	Cutoff      time.Time `json:"cutoff"`      // rows that are older may go
	HorizonXID  uint64    `json:"horizon_xid"` // transactions below it are in Kafka
	HorizonLSN  string    `json:"horizon_lsn"` // which is this far
	Rows        int64     `json:"rows"`        // deleted, or to be
	Skipped     int64     `json:"pages_skipped"`
	Created     []string  `json:"created"`
	Dropped     []string  `json:"dropped"`
	Kept        []Kept    `json:"kept"`
	// More tells that the run stopped at its bound.
	More     bool     `json:"more"`
	Warnings []string `json:"warnings"`
}

// Kept is a partition that is old and stays for now; its keys are stable.
type Kept struct {
	Partition string `json:"partition"`
	Why       string `json:"why"`
}

// Cleaner removes rows over one connection. It is used by one goroutine.
type Cleaner struct {
	cfg     Config
	conn    *pgx.Conn
	pending []Horizon // the oldest first
}

// New returns a cleaner. The connection has to speak UTC and ISO.
func New(conn *pgx.Conn, cfg Config) *Cleaner {
	if cfg.Did == nil {
		cfg.Did = func(string) {}
	}
	if cfg.Progress == nil {
		cfg.Progress = func(int64, int64) {}
	}
	return &Cleaner{cfg: cfg, conn: conn}
}

// Run removes what may go now. Partitions to come are made first, whatever the
// relay does: those who write need them.
func (c *Cleaner) Run(ctx context.Context) (Result, error) {
	r := Result{
		DryRun: c.cfg.DryRun, Cutoff: time.Now().Add(-c.cfg.Retention).UTC(), Created: []string{}, Dropped: []string{}, Kept: []Kept{}, Warnings: []string{},
	}
	var kind string
	err := c.conn.QueryRow(ctx, `SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)`, c.cfg.Table.SQL()).Scan(&kind)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, fault.New(fault.TableMissing, "table %s", c.cfg.Table)
	}
	if err != nil {
		return r, classify(err, "look up table "+c.cfg.Table.String())
	}
	// Now, so that what this run itself writes need not be waited for.
	if err := c.look(ctx); err != nil {
		return r, err
	}
	r.Partitioned = kind == "p"
	var parts []partition
	managed := ""
	if r.Partitioned {
		if managed, err = c.partman(ctx); err != nil {
			return r, err
		}
		if parts, err = c.partitions(ctx); err != nil {
			return r, err
		}
		if managed == "" {
			if err := c.create(ctx, parts, &r); err != nil {
				return r, err
			}
		}
	}
	h, err := c.await(ctx, c.cfg.Patience)
	if err != nil {
		return r, err
	}
	r.HorizonXID, r.HorizonLSN = h.XID, h.LSN.String()
	if !r.Partitioned {
		return r, c.rows(ctx, c.cfg.Table.SQL(), h, &r)
	}
	if managed != "" {
		r.Warnings = append(r.Warnings, fault.New(fault.CleanupPartman, "table %s is managed by pg_partman %s", c.cfg.Table, managed).Text())
	}
	return r, c.drop(ctx, parts, h, managed != "", &r)
}

// pagesAtOnce is how much of a table one transaction goes over: 8 MiB.
const pagesAtOnce = 1024

// rows deletes rows of one table in passes over ranges of its pages. So each
// transaction is short, no index is needed, and what is deleted is not read
// again by the next.
func (c *Cleaner) rows(ctx context.Context, table string, h Horizon, r *Result) error {
	if c.cfg.CreatedAt == "" {
		return fault.New(fault.ConfigInvalid, "OUTBOX_COLUMNS says that there is no created_at").
			WithWhy("without it nobody knows how old a row is").WithFix("delete rows by a rule of your own")
	}
	var pages int64
	err := c.conn.QueryRow(ctx, `SELECT pg_relation_size($1::regclass) / current_setting('block_size')::bigint`, table).Scan(&pages)
	if err != nil {
		return classify(err, "measure table "+table)
	}
	column := pgx.Identifier{c.cfg.CreatedAt}.Sanitize()
	for from := int64(0); from < pages; from += pagesAtOnce {
		if c.cfg.MaxRows > 0 && r.Rows >= c.cfg.MaxRows {
			r.More = true
			return nil
		}
		where := fmt.Sprintf("ctid >= '(%d,0)' AND ctid < '(%d,0)' AND %s < '%s' AND %s",
			from, from+pagesAtOnce, column, r.Cutoff.Format(boundForm), h.below())
		if c.cfg.MaxRows > 0 {
			where = fmt.Sprintf("ctid = ANY (ARRAY(SELECT ctid FROM %s WHERE %s LIMIT %d))", table, where, c.cfg.MaxRows-r.Rows)
		}
		n, err := c.batch(ctx, table, where)
		if busy(err) {
			r.Skipped += min(pagesAtOnce, pages-from) // somebody holds a row; the next run comes by again
			err = nil
		}
		if err != nil {
			return classify(err, "delete from "+table)
		}
		r.Rows += n
		c.cfg.Progress(min(from+pagesAtOnce, pages), pages)
		if n > 0 && c.cfg.Pause > 0 {
			select {
			case <-time.After(c.cfg.Pause):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// batch deletes, or counts, in one transaction.
func (c *Cleaner) batch(ctx context.Context, table, where string) (n int64, err error) {
	if c.cfg.DryRun {
		sql := "SELECT count(*) FROM " + table + " WHERE " + where
		err = c.conn.QueryRow(ctx, sql).Scan(&n)
		return n, err
	}
	sql := "DELETE FROM " + table + " WHERE " + where
	err = c.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, sql)
		n = tag.RowsAffected()
		return err
	})
	if n > 0 {
		c.cfg.Did(sql)
	}
	return n, err
}
