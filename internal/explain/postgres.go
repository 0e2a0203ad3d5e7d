package explain

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// rowSQL finds the row of an id. The columns come out of its JSON form, so that
// those a table lacks are empty.
func (s *search) rowSQL(id string) string {
	c := s.cfg.Columns
	field := func(column string) string {
		if column == "" {
			return "NULL"
		}
		return "to_jsonb(t)->>" + quote(column)
	}
	return fmt.Sprintf(`SELECT t.tableoid::regclass::text, t.ctid::text, t.xmin::text, %s, %s, %s, %s,
       CASE WHEN current_setting('track_commit_timestamp') = 'on' THEN to_json(pg_xact_commit_timestamp(t.xmin))->>0 END
  FROM %s t WHERE t.%s = %s LIMIT 1`, field(c.AggregateType), field(c.Type), field(c.CreatedAt), field(c.Topic),
		s.cfg.Table.SQL(), pgx.Identifier{c.ID}.Sanitize(), id)
}

// row reads the row, and then a position: what is visible has committed below it.
func (s *search) row(ctx context.Context) error {
	conn := s.cfg.Server.Conn()
	// The id is compared as whatever type its column has.
	res := conn.PgConn().ExecParams(ctx, s.rowSQL("$1"), [][]byte{[]byte(s.cfg.ID)}, nil, nil, nil).Read()
	var pg *pgconn.PgError
	switch {
	case errors.As(res.Err, &pg) && strings.HasPrefix(pg.Code, "22"):
		return nil // it is no value of that type, so no row has it
	case errors.As(res.Err, &pg) && pg.Code == "42P01":
		return fault.Wrap(res.Err, fault.TableMissing, "read row from %s", s.cfg.Table)
	case errors.As(res.Err, &pg) && pg.Code == "42501":
		return fault.Wrap(res.Err, fault.NoRight, "read row from %s", s.cfg.Table).WithFix("GRANT SELECT ON %s TO <role>", s.cfg.Table.SQL())
	case errors.As(res.Err, &pg) && pg.Code == "42703":
		return fault.Wrap(res.Err, fault.ColumnMissing, "read row from %s", s.cfg.Table)
	case res.Err != nil:
		return fault.Wrap(res.Err, fault.PostgresLost, "read row from %s", s.cfg.Table)
	}
	var err error
	if s.below, err = outbox.Position(ctx, conn); err != nil {
		return fault.Wrap(err, fault.PostgresLost, "read row from %s", s.cfg.Table)
	}
	if len(res.Rows) == 0 {
		return nil
	}
	v := res.Rows[0]
	xid, _ := strconv.ParseUint(string(v[2]), 10, 32)
	s.a.Row = &Row{
		Table: string(v[0]), CTID: string(v[1]), XID: uint32(xid), AggregateType: string(v[3]), Type: string(v[4]),
		CreatedAt: moment(v[5]), CommitTime: moment(v[7]), BelowLSN: s.below, topic: string(v[6]),
	}
	return nil
}

// moment reads a time in the form of to_json; what has another type is none.
func moment(b []byte) *time.Time {
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999"} {
		if t, err := time.Parse(form, string(b)); err == nil {
			return &t
		}
	}
	return nil
}

// slot tells whether the relay has confirmed what the row is below.
func (s *search) slot(ctx context.Context) (passed bool, err error) {
	p, err := outbox.Passed(ctx, s.cfg.Server.Conn(), s.cfg.Slot, s.below)
	if errors.Is(err, outbox.ErrNoSlot) || s.below == "" {
		return false, nil
	}
	if err != nil {
		return false, fault.Wrap(err, fault.PostgresLost, "inspect slot %s", s.cfg.Slot)
	}
	s.a.Slot = &Slot{Name: s.cfg.Slot, Confirmed: p.Confirmed, LeftBytes: p.Left, Active: p.Active}
	return p.Left == 0, nil
}

// wait gives the relay time to come to the row.
func (s *search) wait(ctx context.Context) (passed bool, err error) {
	wait, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	// Looks, not outbox.Wait: the end of its context would take the connection.
	for {
		if passed, err = s.slot(ctx); passed || err != nil || s.a.Slot == nil {
			return passed, err
		}
		select {
		case <-time.After(lookEach):
		case <-wait.Done():
			return false, ctx.Err()
		}
	}
}

const lookEach = 200 * time.Millisecond

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
