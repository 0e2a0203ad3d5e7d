package cleanup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// partition is one of the table's.
type partition struct {
	schema, name string
	holds        Range
	whole        bool // holds is known
	isDefault    bool
	pending      bool // its detaching was begun
	leaf         bool
}

func (p partition) sql() string    { return sanitize(p.schema, p.name) }
func (p partition) String() string { return p.schema + "." + p.name }

func (c *Cleaner) partitions(ctx context.Context) ([]partition, error) {
	rows, err := c.conn.Query(ctx, `SELECT n.nspname, c.relname, pg_get_expr(c.relpartbound, c.oid), i.inhdetachpending, c.relkind = 'r'
	   FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	  WHERE i.inhparent = to_regclass($1) ORDER BY c.relname`, c.cfg.Table.SQL())
	if err != nil {
		return nil, classify(err, "read partitions")
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (partition, error) {
		var p partition
		var text *string
		err := row.Scan(&p.schema, &p.name, &text, &p.pending, &p.leaf)
		if text != nil {
			p.isDefault = *text == "DEFAULT"
			p.holds, p.whole = parseBound(*text)
		}
		return p, err
	})
	return all, classify(err, "read partitions")
}

// partman tells which version of pg_partman manages the table, if one does.
func (c *Cleaner) partman(ctx context.Context) (version string, err error) {
	var schema string
	err = c.conn.QueryRow(ctx, `SELECT e.extversion, n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_partman'`).Scan(&version, &schema)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", classify(err, "look for pg_partman")
	}
	var managed bool
	sql := "SELECT EXISTS (SELECT FROM " + sanitize(schema, "part_config") + " WHERE parent_table = $1)"
	if err := c.conn.QueryRow(ctx, sql, c.cfg.Table.String()).Scan(&managed); err != nil {
		return "", classify(err, "ask pg_partman about the table")
	}
	if !managed {
		return "", nil
	}
	return version, nil
}

// create makes the partitions that are missing.
func (c *Cleaner) create(ctx context.Context, parts []partition, r *Result) error {
	for _, want := range Ranges(time.Now(), c.cfg.Interval, c.cfg.Ahead) {
		if slices.ContainsFunc(parts, func(p partition) bool { return p.whole && p.holds.overlaps(want) }) {
			continue
		}
		name := want.name(c.cfg.Table)
		statements := want.attachSQL(c.cfg.Table)
		if !c.cfg.DryRun {
			err := c.inTx(ctx, func(tx pgx.Tx) error {
				for _, sql := range statements {
					if _, err := tx.Exec(ctx, sql); err != nil {
						return err
					}
				}
				return nil
			})
			var pg *pgconn.PgError
			switch {
			case busy(err):
				r.Warnings = append(r.Warnings, fmt.Sprintf("partition %s was not made: the table was locked for longer than %s", name, lockPatience))
				return nil
			case errors.As(err, &pg) && pg.Code == "23514":
				r.Warnings = append(r.Warnings, fault.New(fault.CleanupDefault, "partition %s", name).Text())
				continue
			case err != nil:
				return classify(err, "make partition "+name.String())
			}
		}
		for _, sql := range statements {
			c.cfg.Did(sql)
		}
		r.Created = append(r.Created, name.String())
	}
	return nil
}

// drop removes partitions that are old and wholly below the horizon, and what
// an earlier run has detached. Rows of the default partition go one by one.
func (c *Cleaner) drop(ctx context.Context, parts []partition, h Horizon, managed bool, r *Result) error {
	withDefault := slices.ContainsFunc(parts, func(p partition) bool { return p.isDefault })
	for _, p := range parts {
		old := p.whole && !p.holds.To.IsZero() && !p.holds.To.After(r.Cutoff)
		switch {
		case p.isDefault && !managed:
			if err := c.rows(ctx, p.sql(), h, r); err != nil {
				return err
			}
			continue
		case !old:
			continue
		}
		above, err := c.above(ctx, c.conn, p.sql(), h)
		if err != nil {
			return err
		}
		if above {
			r.Kept = append(r.Kept, Kept{p.String(), "it holds a row that may not be in Kafka yet"})
			continue
		}
		if c.cfg.DryRun || managed {
			for _, sql := range c.detachSQL(p, withDefault) {
				c.cfg.Did(sql)
			}
			c.cfg.Did("DROP TABLE " + p.sql())
			r.Dropped = append(r.Dropped, p.String())
			continue
		}
		why, err := c.detach(ctx, p, withDefault)
		if err != nil {
			return err
		}
		if why != "" {
			r.Kept = append(r.Kept, Kept{p.String(), why})
		}
	}
	if managed || c.cfg.DryRun {
		return nil
	}
	return c.dropDetached(ctx, h, r)
}

// above tells whether a table has a row that is not below the horizon.
func (c *Cleaner) above(ctx context.Context, q interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, table string, h Horizon,
) (bool, error) {
	var yes bool
	err := q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+table+" WHERE NOT ("+h.below()+"))").Scan(&yes)
	return yes, classify(err, "look for rows that may not be in Kafka in "+table)
}

// detachSQL takes a partition out of the table. Postgres does it without
// locking writers out only where there is no default partition.
func (c *Cleaner) detachSQL(p partition, withDefault bool) []string {
	detach := fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", c.cfg.Table.SQL(), p.sql())
	switch {
	case p.pending:
		detach += " FINALIZE"
	case !withDefault:
		detach += " CONCURRENTLY"
	}
	return []string{fmt.Sprintf("COMMENT ON TABLE %s IS '%s'", p.sql(), escape(mark(c.cfg.Table))), detach}
}

// detach takes a partition out of the table, and says why not if it cannot.
func (c *Cleaner) detach(ctx context.Context, p partition, withDefault bool) (why string, err error) {
	statements := c.detachSQL(p, withDefault)
	if withDefault {
		err = c.inTx(ctx, func(tx pgx.Tx) error {
			for _, sql := range statements {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return err
				}
			}
			return nil
		})
	} else {
		// Waits for the transactions that use the table, without locking others
		// out; the lock that it needs at the end is bounded.
		_, err = c.conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", lockPatience.Milliseconds()))
		for i := 0; err == nil && i < len(statements); i++ {
			_, err = c.conn.Exec(ctx, statements[i])
		}
		if _, rerr := c.conn.Exec(ctx, "RESET lock_timeout"); err == nil {
			err = rerr
		}
	}
	switch {
	case busy(err):
		return "an open transaction uses it or the table", nil
	case err != nil:
		return "", classify(err, "detach partition "+p.String())
	}
	for _, sql := range statements {
		c.cfg.Did(sql)
	}
	return "", nil
}

// dropDetached drops tables that were partitions and hold nothing that may not
// be in Kafka. With the table locked nobody can add a row, and whoever had done
// so has ended.
func (c *Cleaner) dropDetached(ctx context.Context, h Horizon, r *Result) error {
	rows, err := c.conn.Query(ctx, `SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	  WHERE c.relkind = 'r' AND NOT c.relispartition AND obj_description(c.oid, 'pg_class') = $1 ORDER BY 2`, mark(c.cfg.Table))
	if err != nil {
		return classify(err, "look for detached partitions")
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (outbox.Table, error) {
		var t outbox.Table
		err := row.Scan(&t.Schema, &t.Name)
		return t, err
	})
	if err != nil {
		return classify(err, "look for detached partitions")
	}
	for _, t := range all {
		kept := ""
		err := c.inTx(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "LOCK TABLE "+t.SQL()+" IN ACCESS EXCLUSIVE MODE"); err != nil {
				return err
			}
			above, err := c.above(ctx, tx, t.SQL(), h)
			if err != nil {
				return err
			}
			if above {
				kept = "it is detached, and holds a row that may not be in Kafka yet"
				return nil
			}
			_, err = tx.Exec(ctx, "DROP TABLE "+t.SQL())
			return err
		})
		switch {
		case busy(err):
			kept = "it is detached, and somebody reads it"
		case err != nil:
			return classify(err, "drop "+t.String())
		}
		if kept != "" {
			r.Kept = append(r.Kept, Kept{t.String(), kept})
			continue
		}
		c.cfg.Did("DROP TABLE " + t.SQL())
		r.Dropped = append(r.Dropped, t.String())
	}
	return nil
}
