package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// Search is what Find is to look for, besides what its Config says of table and
// topics. Wait, Examples and Checkpoint of the Config are not used.
type Search struct {
	// Tx is the snapshot that the table is read in; the caller's. Everything
	// that it shows was committed below At.
	Tx pgx.Tx
	At pglogrepl.LSN
	// Order is the ORDER BY clause that numbers the rows.
	Order string
	// Resume is where the slot begins to send, given what was published last: rows
	// of the snapshot that commit there or behind are not missing. nil: the
	// snapshot shows none.
	Resume func(high dlq.Place) checkpoint.Position

	// Topics are read besides those that rows belong to.
	Topics []string
	// Source is the relay's, as in the header outbox.source.
	Source string
	// Owed is when the relay was initialised: what was created before was never
	// its to publish. Zero: not known.
	Owed time.Time
	// Younger is an SQL expression that tells of a row whether it was written after
	// the newest that was published, whatever its time of creation says: that is the
	// application's to set. "": not known.
	Younger string
	// Unpublished is a time from which on the relay has published nothing: what
	// was created later cannot have expired. Zero: not known.
	Unpublished time.Time
	// Left is where the history of the database left the one that was published,
	// and Lost is told of each event behind it. Timeline 0: nowhere.
	Left dlq.Place
	Lost func(Lost) error
}

// Lost is an event that was published and that the database no longer knows.
type Lost struct {
	ID       string
	Where    Place
	Position dlq.Place
	// Again: the table has a row with its id, which is a new event to the slot.
	Again bool
}

// Outcome is what Find has found. The numbers of rows are theirs in Order.
type Outcome struct {
	Rows      int64
	Published int64 // events or letters
	Pending   int64 // the slot sends them
	Before    int64 // created before the relay was initialised

	Missing  Rows // in no topic, and the relay's to publish
	Doubtful Rows // in no topic, and none of this tells whether they ever were

	Oldest time.Time // of the table; zero: not known
	Topics []TopicCount
	Lost   int64
	Again  int64 // of these

	// High is the highest position of the source that was published, and Number
	// the highest number of a checkpoint; zero: none.
	High   dlq.Place
	Number uint64
}

// Rows is a set of rows, by number, and when they were created.
type Rows struct {
	bits           []uint64
	Count          int64
	Oldest, Newest time.Time // zero: not known
}

// Has tells whether a row is in the set.
func (r *Rows) Has(n int64) bool {
	word := n / 64
	return word < int64(len(r.bits)) && r.bits[word]&(1<<(n%64)) != 0
}

func (r *Rows) add(e *entry) {
	for int64(len(r.bits)) <= e.offset/64 {
		r.bits = append(r.bits, 0)
	}
	r.bits[e.offset/64] |= 1 << (e.offset % 64)
	r.Count++
	if e.created == 0 {
		return
	}
	at := time.UnixMicro(e.created).UTC()
	if r.Oldest.IsZero() || at.Before(r.Oldest) {
		r.Oldest = at
	}
	if at.After(r.Newest) {
		r.Newest = at
	}
}

// searching is a Search under way.
type searching struct {
	Search
	out   *Outcome
	names map[uint32]string
}

// Find looks for the rows that are in no topic, in bounded memory: a bit for
// each row of the table, besides what Run takes. It publishes nothing and
// changes nothing. The topics are read up to the high watermarks of now, so
// whoever wants an exact answer has fenced the relay before.
func Find(ctx context.Context, cfg Config, look Search) (*Outcome, error) {
	cfg.Since = cfg.Since.Truncate(time.Millisecond)
	s, err := newStore(cfg.TempDir)
	if err != nil {
		return nil, fault.Wrap(err, fault.Runtime, "make temporary files")
	}
	defer s.close()
	out := &Outcome{}
	a := &audit{
		cfg: cfg, store: s, report: &Report{}, topics: map[string]*topic{}, snapshot: look.At,
		search: &searching{Search: look, out: out, names: map[uint32]string{}},
	}
	for _, step := range []func(context.Context) error{a.readOrdered, a.readTopics, a.comingStill, a.sortOut} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("look for missing rows: %w", context.Cause(ctx))
			}
			return nil, err
		}
	}
	return out, nil
}

// isTrue is how the text protocol gives a boolean.
func isTrue(v []byte) bool { return len(v) == 1 && v[0] == 't' }

// Selection is the statement that reads the rows in the order of the search, for
// whoever reads them again. Its argument is Since, if that is set. Behind the
// columns of the table there may be another.
func Selection(cfg Config, look Search) string {
	return (&audit{cfg: cfg, search: &searching{Search: look}}).selection()
}

func (a *audit) readOrdered(ctx context.Context) error {
	var total int64
	if a.cfg.Since.IsZero() {
		if err := a.search.Tx.QueryRow(ctx, estimate, a.cfg.Table.SQL()).Scan(&total); err != nil {
			return fault.Wrap(err, fault.TableMissing, "look up table %s", a.cfg.Table)
		}
	}
	return a.readRows(ctx, a.search.Tx, total)
}

// comingStill notes what the slot sends of the snapshot. Unlike in a comparison
// there is no doubt to live with: what is taken for missing is published.
func (a *audit) comingStill(ctx context.Context) error {
	if a.search.Resume == nil {
		return nil
	}
	at := a.search.Resume(a.search.out.High)
	if at.EndLSN >= a.snapshot && !at.Cut() {
		return nil
	}
	if err := a.pending(ctx, at); err != nil {
		return err
	}
	if a.undecided {
		return fault.New(fault.PostgresUnreachable, "%s", a.report.Undecidable).
			WithWhy("what the slot is still to send could not be read, from a temporary copy of it").
			WithFix("the role needs REPLICATION, and the server a free replication slot (max_replication_slots)")
	}
	return nil
}

// saw notes what the position of a record tells; nil in a comparison.
func (s *searching) saw(e *entry, p dlq.Place, headers []kgo.RecordHeader) {
	if s == nil {
		return
	}
	source, number := "", ""
	for _, h := range headers {
		switch h.Key {
		case outbox.HeaderSource:
			source = string(h.Value)
		case outbox.HeaderCheckpoint:
			number = string(h.Value)
		}
	}
	if source != s.Source {
		return
	}
	var n uint64
	if _, err := fmt.Sscan(number, &n); err == nil {
		s.out.Number = max(s.out.Number, n)
	}
	if !e.has(replayed) && p.Compare(s.out.High) > 0 {
		s.out.High = p
	}
	if s.Left.Timeline != 0 && p.Timeline == s.Left.Timeline && p.LSN >= s.Left.LSN {
		e.flags |= gone
	}
}

// sortOut decides about one id after the other.
func (a *audit) sortOut(ctx context.Context) error {
	for _, t := range a.all() {
		a.search.names[t.log] = t.name
	}
	if err := a.eachID(ctx, a.decide); err != nil {
		return err
	}
	a.total()
	a.search.out.Topics, a.search.out.Rows = a.report.Topics, a.report.Rows
	return nil
}

// emptied tells whether the partition of a row has lost all that it held, by age or
// by size or because somebody deleted it.
func (a *audit) emptied(row *entry) bool {
	t := a.byHash[row.topic]
	if row.has(rejected) {
		t = a.letters
	}
	if t == nil || len(t.partitions) == 0 {
		return false
	}
	n := row.partition
	if !row.has(hasPartition) || row.has(rejected) {
		n %= int32(len(t.partitions))
	}
	b := t.partitions[n]
	return b != nil && b.start > 0 && b.from == b.start && b.first.IsZero()
}

func (a *audit) decide(all []entry) error {
	out := a.search.out
	var rows []*entry // in their order
	found, pending := 0, 0
	for i := range all {
		switch e := &all[i]; {
		case e.kind == kindRow:
			rows = append(rows, e)
			if at := time.UnixMicro(e.created).UTC(); e.created != 0 && (out.Oldest.IsZero() || at.Before(out.Oldest)) {
				out.Oldest = at
			}
		case e.kind == kindPending:
			pending++
		case !e.has(replayed):
			found++
		}
	}
	for i := range all {
		e := &all[i]
		if !e.has(gone) || e.kind == kindRow || e.has(replayed) {
			continue
		}
		out.Lost++
		again := len(rows) > 0
		if again {
			out.Again++
		}
		if a.search.Lost == nil {
			continue
		}
		if err := a.search.Lost(Lost{
			ID: e.id, Where: Place{a.search.names[e.log], e.partition, e.offset}, Again: again,
			Position: dlq.Place{Timeline: e.place.timeline, LSN: pglogrepl.LSN(e.place.lsn), Ordinal: e.place.ordinal},
		}); err != nil {
			return fault.Wrap(err, fault.Runtime, "write down a lost event")
		}
	}
	if found == 0 {
		for i := range all {
			if e := &all[i]; e.kind == kindEvent && e.has(replayed) && !e.has(gone) {
				found = len(rows) // the letters have gone, their replays are there
			}
		}
	}
	// An id is no key of the table. The newest of the rows that share one are
	// those that are still to come.
	n := len(rows)
	published, coming := min(found, n), min(pending, max(0, n-found))
	out.Published += int64(published)
	out.Pending += int64(coming)
	for _, row := range rows[published : n-coming] {
		created := time.UnixMicro(row.created)
		known := row.created != 0
		switch {
		case row.id == "":
			out.Doubtful.add(row) // letters without an id are nobody's
		case known && !a.search.Unpublished.IsZero() && !created.Before(a.search.Unpublished):
			out.Missing.add(row)
		case known && !a.search.Owed.IsZero() && created.Before(a.search.Owed) && row.has(younger):
			// Created before, and written since: an old row that was updated, or a
			// new one with an old time. Nobody but its writer knows.
			out.Doubtful.add(row)
		case known && !a.search.Owed.IsZero() && created.Before(a.search.Owed):
			out.Before++
		case a.expired(row) || a.emptied(row):
			out.Doubtful.add(row)
		default:
			out.Missing.add(row)
		}
	}
	return nil
}
