package audit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/internal/fault"
)

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.timeline, q.timeline), cmp.Compare(p.lsn, q.lsn), cmp.Compare(p.ordinal, q.ordinal))
}

func (p place) String() string {
	return fmt.Sprintf("%d:%s+%d", p.timeline, pglogrepl.LSN(p.lsn), p.ordinal)
}

// compare judges one id after the other.
func (a *audit) compare(ctx context.Context) error {
	names := map[uint32]string{}
	for _, t := range a.all() {
		names[t.log] = t.name
	}
	err := a.eachID(ctx, func(all []entry) error {
		a.judge(all, names)
		return nil
	})
	if err != nil {
		return err
	}
	a.total()
	return nil
}

// eachID calls do with everything that has one id, id after id.
func (a *audit) eachID(ctx context.Context, do func([]entry) error) error {
	var done int64
	for i := range buckets {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		all, err := a.store.read(i)
		if err != nil {
			return fault.Wrap(err, fault.Runtime, "read a temporary file")
		}
		slices.SortFunc(all, func(x, y entry) int {
			return cmp.Or(strings.Compare(x.id, y.id), cmp.Compare(x.kind, y.kind), cmp.Compare(x.log, y.log),
				cmp.Compare(x.partition, y.partition), cmp.Compare(x.offset, y.offset))
		})
		for len(all) > 0 {
			n := 1
			for n < len(all) && all[n].id == all[0].id {
				n++
			}
			if err := do(all[:n]); err != nil {
				return err
			}
			all, done = all[n:], done+int64(n)
		}
		a.progress("compare", done, a.store.entries)
	}
	return nil
}

// total sums up what the topics hold.
func (a *audit) total() {
	for _, t := range a.all() {
		a.report.Topics = append(a.report.Topics, t.counts)
		a.report.Events += t.counts.Events
		a.report.Replays += t.counts.Replays
		a.report.Letters += t.counts.Letters
		a.report.ConsumerLetters += t.counts.ConsumerLetters
		a.report.Foreign += t.counts.Foreign
	}
}

// judge decides about everything that has one id.
func (a *audit) judge(all []entry, names map[uint32]string) {
	var rows, firsts, marked []*entry // firsts: neither marked as replays
	pending := false
	for i := range all {
		switch e := &all[i]; {
		case e.kind == kindRow:
			rows = append(rows, e)
		case e.kind == kindPending:
			pending = true
		case e.has(replayed):
			marked = append(marked, e)
		default:
			firsts = append(firsts, e)
		}
	}
	r := a.report
	spot := func(e *entry) Place { return Place{Topic: names[e.log], Partition: e.partition, Offset: e.offset} }
	// An id is no key of the table: rows may share one.
	if len(firsts) > max(1, len(rows)) {
		f := Finding{ID: all[0].id, Detail: fmt.Sprintf("%d records for %d rows", len(firsts), len(rows))}
		for _, e := range firsts {
			f.Places = append(f.Places, spot(e))
		}
		r.Doubled.add(f, a.cfg.Examples)
	} else {
		for _, e := range firsts {
			if e.has(late) {
				r.Reordered.add(Finding{
					ID: e.id, Places: []Place{spot(e)},
					Detail: fmt.Sprintf("of position %s, behind %s", e.place, e.before),
				}, a.cfg.Examples)
			}
		}
	}
	if len(rows) == 0 {
		for _, e := range append(firsts, marked...) {
			if e.has(newer) {
				r.Newer++
			} else {
				r.Deleted++
			}
		}
		return
	}
	if len(rows) == 1 {
		for _, e := range append(firsts, marked...) {
			if parts := differ(rows[0], e); len(parts) > 0 {
				r.Different.add(Finding{ID: e.id, Places: []Place{spot(e)}, Detail: "in " + strings.Join(parts, ", ")}, a.cfg.Examples)
			}
		}
	}
	found := len(firsts)
	if found == 0 && len(marked) > 0 {
		found = len(rows) // the letters have gone, their replays are there
	}
	r.Found += int64(min(found, len(rows)))
	for _, row := range rows[min(found, len(rows)):] {
		switch {
		case pending:
			r.Pending++
		case a.undecided:
			r.Undecided++
		case a.expired(row):
			r.Expired++
		default:
			f := Finding{ID: row.id, Detail: "in no topic"}
			if t := a.byHash[row.topic]; t != nil {
				f.Detail = "not in " + t.name
			}
			if row.has(rejected) {
				f.Detail = "not in " + a.letters.name + ", where it belongs"
			}
			if row.created != 0 {
				at := time.UnixMicro(row.created).UTC()
				f.Created = &at
			}
			r.Missing.add(f, a.cfg.Examples)
		}
	}
}

// differ names what is not as the row says.
func differ(row, e *entry) []string {
	var parts []string
	note := func(part string, differs bool) {
		if differs {
			parts = append(parts, part)
		}
	}
	// A letter that a person sent to another topic is where it was meant to go.
	moved := e.has(replayed) && row.topic != e.topic
	note("topic", row.topic != e.topic && !moved)
	note("key", row.key != e.key && !e.has(noKey))
	note("payload", row.value != e.value && !e.has(noValue))
	note("headers", row.headers != e.headers && !e.has(noHeaders))
	note("partition", e.kind == kindEvent && !moved && row.has(hasPartition) && row.partition != e.partition)
	return parts
}

// expired tells whether the record of a row can be gone by age: it would stand
// before the first record that its partition has left. The partition is that of
// the key as the topic is now, so rows from before partitions were added are held
// against the wrong one.
func (a *audit) expired(row *entry) bool {
	t := a.byHash[row.topic]
	if row.has(rejected) {
		t = a.letters
	}
	if t == nil || len(t.partitions) == 0 {
		return false
	}
	if t.compacted {
		return true
	}
	b := t.partitions[row.partition]
	if !row.has(hasPartition) || row.has(rejected) {
		b = t.partitions[row.partition%int32(len(t.partitions))]
	}
	if b == nil || b.start == 0 || b.from > b.start {
		return false // nothing has gone, or nothing that is asked about
	}
	created := time.UnixMicro(row.created)
	switch {
	case row.created == 0:
		return true // nobody knows
	case b.first.IsZero():
		// Nothing is left. Age explains that, unless the row is too young for it.
		return t.retention == 0 || time.Since(created) > t.retention
	}
	return created.Before(b.first)
}
