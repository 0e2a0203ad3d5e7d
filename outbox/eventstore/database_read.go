package eventstore

import (
	"context"
	"fmt"
	"iter"
	"strconv"

	"github.com/jackc/pgx/v5"
)

const (
	// pageSize is how many events are held in memory at a time.
	pageSize = 500
	// maxPage is the most that one ReadAll returns.
	maxPage = 10_000
)

// eventColumns are qualified, and the order of a page has to be: a bare xid in
// ORDER BY would mean the text of the select list, in which 1000 is less than
// 999.
const eventColumns = "l.stream, l.version, l.id::text, l.type, l.payload, l.content_type, l.headers::text, l.traceparent, l.tracestate, l.created_at, l.xid::text, l.seq"

// Load reads the stream page by page; events that are appended meanwhile are
// included if the reading has not ended before.
func (d *Database) Load(ctx context.Context, stream string, after int64) iter.Seq2[Recorded, error] {
	return func(yield func(Recorded, error) bool) {
		for {
			page, err := d.query(ctx, "WHERE l.stream = $1 AND l.version > $2 ORDER BY l.version LIMIT $3", stream, after, pageSize)
			if err != nil {
				yield(Recorded{}, fmt.Errorf("load stream %q: %w", stream, err))
				return
			}
			for i := range page {
				if !yield(page[i].Recorded, nil) {
					return
				}
				after = page[i].Version
			}
			if len(page) < pageSize {
				return
			}
		}
	}
}

// ReadAll reads in the order (transaction, number), and only what no open
// transaction can still write in front of. An event is therefore seen when the
// oldest transaction that was open at its commit has ended, in whichever
// database of the server.
func (d *Database) ReadAll(ctx context.Context, from Position, limit int) ([]Recorded, error) {
	at, err := parseDatabasePosition(from)
	if err != nil {
		return nil, err
	}
	page, _, err := d.next(ctx, at, limit)
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	events := make([]Recorded, len(page))
	for i := range page {
		events[i] = page[i].Recorded
	}
	return events, nil
}

// next returns a page behind a place, and the horizon: if the page is not
// full, everything with a lower xid has been read.
func (d *Database) next(ctx context.Context, from place, limit int) ([]writtenEvent, uint64, error) {
	if limit < 1 {
		return nil, 0, fmt.Errorf("a limit of %d events is none", limit)
	}
	h, err := d.horizon(ctx)
	if err != nil {
		return nil, 0, err
	}
	if from.xid > h.xmax {
		return nil, 0, &PositionError{from.position(), "is ahead of this database's transactions: it was saved before a restore, or is another cluster's"}
	}
	page, err := d.query(ctx, "WHERE (l.xid, l.seq) > ($1::text::xid8, $2) AND l.xid < $3::text::xid8 ORDER BY l.xid, l.seq LIMIT $4",
		strconv.FormatUint(from.xid, 10), from.seq, strconv.FormatUint(h.xmin, 10), min(limit, maxPage))
	return page, h.xmin, err
}

// horizon is where the reading of the log stops.
type horizon struct {
	xmin uint64 // every transaction below has ended
	xmax uint64 // none at or above had begun to write
}

// horizon asks for the snapshot. A row with a transaction that has not begun
// yet was brought here from another cluster: it and what is appended from now
// on would be read in the wrong order, or not for years, so it is refused.
func (d *Database) horizon(ctx context.Context) (horizon, error) {
	var xmin, xmax string
	var foreign bool
	err := d.pool.QueryRow(ctx, "SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text, EXISTS (SELECT FROM "+d.table+
		" WHERE xid >= pg_snapshot_xmax(s)) FROM pg_current_snapshot() s").Scan(&xmin, &xmax, &foreign)
	if err != nil {
		return horizon{}, fmt.Errorf("ask for the snapshot: %w", err)
	}
	var h horizon
	if h.xmin, err = strconv.ParseUint(xmin, 10, 64); err != nil {
		return horizon{}, err
	}
	if h.xmax, err = strconv.ParseUint(xmax, 10, 64); err != nil {
		return horizon{}, err
	}
	if foreign {
		return horizon{}, &LogError{Log: d.name, Detail: "holds transactions that this cluster has not reached: it was restored from another one; see \"After a restore\" in docs/eventstore.md"}
	}
	return h, nil
}

// hidden tells whether there are events behind a place that the horizon hides.
func (d *Database) hidden(ctx context.Context, from place) (bool, error) {
	var yes bool
	err := d.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+d.table+" WHERE (xid, seq) > ($1::text::xid8, $2))",
		strconv.FormatUint(from.xid, 10), from.seq).Scan(&yes)
	return yes, err
}

// count returns how many events are behind a place and below a transaction.
func (d *Database) count(ctx context.Context, from place, below uint64) (int, error) {
	var n int
	err := d.pool.QueryRow(ctx, "SELECT count(*) FROM "+d.table+" WHERE (xid, seq) > ($1::text::xid8, $2) AND xid < $3::text::xid8",
		strconv.FormatUint(from.xid, 10), from.seq, strconv.FormatUint(below, 10)).Scan(&n)
	return n, err
}

func (d *Database) query(ctx context.Context, where string, args ...any) ([]writtenEvent, error) {
	rows, err := d.pool.Query(ctx, "SELECT "+eventColumns+" FROM "+d.table+" l "+where, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (writtenEvent, error) {
		var ev writtenEvent
		var headers, xid string
		err := row.Scan(&ev.Stream, &ev.Version, &ev.ID, &ev.Type, &ev.Payload, &ev.ContentType, &headers,
			&ev.TraceParent, &ev.TraceState, &ev.Time, &xid, &ev.at.seq)
		if err != nil {
			return ev, err
		}
		if ev.at.xid, err = strconv.ParseUint(xid, 10, 64); err != nil {
			return ev, err
		}
		if ev.Headers, err = parseHeaders(headers); err != nil {
			return ev, &LogError{Log: d.name, Place: ev.at.String(), Detail: "holds headers that are no JSON object of texts"}
		}
		ev.Time, ev.Position = ev.Time.UTC(), ev.at.position()
		return ev, nil
	})
}
