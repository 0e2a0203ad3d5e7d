package cleanup

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/outbox"
)

// Range is what a partition holds: from From, up to and without To. A zero end
// is open.
type Range struct{ From, To time.Time }

const boundForm = "2006-01-02 15:04:05Z07:00"

// Ranges are those that should exist: the one that now lies in and some ahead,
// aligned to multiples of the interval since the epoch.
func Ranges(now time.Time, interval time.Duration, ahead int) []Range {
	start := now.UTC().Truncate(interval)
	if interval%(24*time.Hour) == 0 {
		// Truncate counts from the year 1, which began on a Monday; days agree.
		start = now.UTC().Truncate(24 * time.Hour)
		days := int64(interval / (24 * time.Hour))
		start = start.AddDate(0, 0, -int(start.Unix()/86400%days))
	}
	all := make([]Range, 0, ahead+1)
	for i := range ahead + 1 {
		from := start.Add(time.Duration(i) * interval)
		all = append(all, Range{from, from.Add(interval)})
	}
	return all
}

// overlaps tells whether two ranges have a moment in common.
func (r Range) overlaps(o Range) bool {
	return (o.To.IsZero() || r.From.Before(o.To)) && (r.To.IsZero() || o.From.Before(r.To))
}

// name is that of the partition for the range.
func (r Range) name(table outbox.Table) outbox.Table {
	suffix := r.From.UTC().Format("_p20060102")
	if !r.From.UTC().Truncate(24*time.Hour).Equal(r.From) || r.To.Sub(r.From)%(24*time.Hour) != 0 {
		suffix = r.From.UTC().Format("_p20060102t1504")
	}
	name := table.Name
	for len(name)+len(suffix) > 63 {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return outbox.Table{Schema: table.Schema, Name: name + suffix}
}

func (r Range) bounds() string {
	return fmt.Sprintf("FROM ('%s') TO ('%s')", r.From.UTC().Format(boundForm), r.To.UTC().Format(boundForm))
}

// FirstSQL makes the partition of a table that nobody uses yet.
func (r Range) FirstSQL(table outbox.Table) string {
	return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s PARTITION OF %s FOR VALUES %s", r.name(table).SQL(), table.SQL(), r.bounds())
}

// attachSQL makes the partition of a table in use: attaching takes a weaker
// lock than making one in place.
func (r Range) attachSQL(table outbox.Table) []string {
	name := r.name(table).SQL()
	return []string{
		fmt.Sprintf("CREATE TABLE %s (LIKE %s INCLUDING ALL)", name, table.SQL()),
		fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES %s", table.SQL(), name, r.bounds()),
	}
}

// bound reads FOR VALUES FROM ('...') TO ('...') as the catalogue has it, with
// TimeZone UTC and DateStyle ISO.
var bound = regexp.MustCompile(`^FOR VALUES FROM \((.*?)\) TO \((.*?)\)$`)

// parseBound returns the range; whole is false for what is none of one column
// of times.
func parseBound(text string) (r Range, whole bool) {
	m := bound.FindStringSubmatch(text)
	if m == nil {
		return Range{}, false
	}
	for i, end := range []*time.Time{&r.From, &r.To} {
		s := m[i+1]
		if s == "MINVALUE" || s == "MAXVALUE" {
			continue
		}
		s = strings.Trim(s, "'")
		t, err := time.Parse("2006-01-02 15:04:05.999999-07", s)
		if err != nil {
			return Range{}, false
		}
		*end = t
	}
	return r, true
}

// mark is the comment by which a detached partition is found again.
func mark(table outbox.Table) string {
	return "outbox-relay: detached from " + table.String() + ", to be dropped by cleanup"
}

func sanitize(schema, name string) string { return pgx.Identifier{schema, name}.Sanitize() }

// escape doubles the quotes of an SQL literal.
func escape(s string) string { return strings.ReplaceAll(s, "'", "''") }
