package verify

import (
	"cmp"
	"slices"
	"sort"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
)

// Check judges the evidence. It does not change it.
func Check(ev Evidence) Report {
	f := &facts{ev: &ev, partitions: map[string]int{}, byKey: kgo.StickyKeyPartitioner(nil).ForTopic("")}
	for i := range ev.Logs {
		l := &ev.Logs[i]
		f.partitions[l.Topic] = max(f.partitions[l.Topic], int(l.Partition)+1)
	}
	f.count()
	report := Report{Counts: f.counts}
	sound := Finding{Property: P0, Title: "evidence is sound"}
	checkEvidence(&ev, &sound)
	report.Findings = append(report.Findings, sound)
	if sound.Violations > 0 {
		// What follows trusts the order of the oracle and of the offsets.
		return report
	}
	f.match()
	report.Counts.Before = f.first
	for _, r := range rules() {
		finding := Finding{Property: r.property, Title: r.title}
		r.check(f, &finding)
		report.Findings = append(report.Findings, finding)
	}
	return report
}

// ref names a record.
type ref struct{ log, rec int32 }

// facts is the evidence, sorted and matched.
type facts struct {
	ev     *Evidence
	counts Counts

	refs  []ref   // what consumers are shown, by position; then by log and offset
	rowOf []int32 // by index in refs: the row at that position, or -1
	refOf []int32 // by row: index in refs of the first record at its position, or -1
	first int     // rows before it are older than the first checkpoint

	byID map[ID]int32 // rows; nil until a recovered record asks

	replays []ref // what was a letter before; by log and offset
	desk    *desk
	// successors are letters that took the place of others.
	successors []ref

	partitions map[string]int       // by topic
	byKey      kgo.TopicPartitioner // the Java client's
}

func (f *facts) record(r ref) *Record { return &f.ev.Logs[r.log].Records[r.rec] }

func (f *facts) count() {
	c := &f.counts
	c.Transactions, c.Rows, c.Samples = len(f.ev.Oracle.Txs), len(f.ev.Oracle.Rows), len(f.ev.Samples)
	for i := range f.ev.Logs {
		l := &f.ev.Logs[i]
		for j := range l.Records {
			switch {
			case !l.Records[j].Committed:
				c.Aborted++
			case l.Letters:
				c.Letters++
			case l.Records[j].Replayed:
				c.Replayed++
			default:
				c.Published++
			}
		}
	}
	for i := range f.ev.State.Marks {
		if f.ev.State.Marks[i].Committed {
			c.Marks++
		}
	}
	sessions := map[string]struct{}{}
	for i := range f.ev.Checkpoints {
		p := &f.ev.Checkpoints[i]
		if p.Committed && p.Kind == checkpoint.Lane {
			c.Checkpoints++
			sessions[p.Session] = struct{}{}
		}
	}
	c.Sessions = len(sessions)
	for i := range f.ev.Sightings {
		c.Sighted += len(f.ev.Sightings[i].Offsets)
	}
}

// match sorts what the relay delivered by position and merges it with the
// oracle, which is sorted already. Replays are kept apart: they repeat their
// rows on purpose, later. So are letters of consumers, who write for themselves.
func (f *facts) match() {
	f.desk = newDesk(f.ev)
	f.refs = make([]ref, 0, f.counts.Published+f.counts.Letters)
	for i := range f.ev.Logs {
		for j := range f.ev.Logs[i].Records {
			switch r := &f.ev.Logs[i].Records[j]; {
			case r.Committed && r.Again && !r.Replayed && r.Group == (Name{}):
				f.successors = append(f.successors, ref{int32(i), int32(j)})
			case r.delivery():
				f.refs = append(f.refs, ref{int32(i), int32(j)})
			case r.Committed && r.Replayed && !f.ev.Logs[i].Letters:
				f.replays = append(f.replays, ref{int32(i), int32(j)})
				f.desk.replays[r.letterKey()] = append(f.desk.replays[r.letterKey()], ref{int32(i), int32(j)})
			}
		}
	}
	slices.SortFunc(f.refs, func(a, b ref) int {
		return cmp.Or(f.record(a).At().Compare(f.record(b).At()), cmp.Compare(a.log, b.log), cmp.Compare(a.rec, b.rec))
	})
	o := &f.ev.Oracle
	f.rowOf = make([]int32, len(f.refs))
	f.refOf = make([]int32, len(o.Rows))
	for i := range f.refOf {
		f.refOf[i] = -1
	}
	row := 0
	for i, r := range f.refs {
		if f.record(r).Recovered {
			f.matchByID(i)
			continue
		}
		at := f.record(r).At()
		for row < len(o.Rows) && o.At(row).Compare(at) < 0 {
			row++
		}
		f.rowOf[i] = -1
		if row < len(o.Rows) && o.At(row) == at {
			f.rowOf[i] = int32(row)
			if f.refOf[row] < 0 {
				f.refOf[row] = int32(i)
			}
		}
	}
	if c := f.laneCheckpoints(); len(c) > 0 {
		start := &f.ev.Checkpoints[c[0]]
		if start.Checkpoint.Seq == 1 && start.Checkpoint.Rows == 0 && !start.Hole {
			for f.first < len(o.Rows) && covered(start.Checkpoint.Pos, o.At(f.first)) {
				f.first++
			}
		}
	}
}

// matchByID matches a record that a recovery made: the table does not say where
// its row was committed, so the record cannot either.
func (f *facts) matchByID(i int) {
	row := f.rowOfRecord(f.record(f.refs[i]))
	f.rowOf[i] = int32(row)
	if row >= 0 && f.refOf[row] < 0 {
		f.refOf[row] = int32(i)
	}
}

// rowOfRecord returns the row that a record is of, or -1: by its position, or by
// its id if it was recovered.
func (f *facts) rowOfRecord(rec *Record) int {
	if !rec.Recovered {
		return f.rowAt(rec.At())
	}
	if f.byID == nil {
		f.byID = make(map[ID]int32, len(f.ev.Oracle.Rows))
		for n := range f.ev.Oracle.Rows {
			f.byID[f.ev.Oracle.Rows[n].ID] = int32(n)
		}
	}
	if row, ok := f.byID[rec.ID]; ok {
		return int(row)
	}
	return -1
}

// rowAt returns the row at a position, or -1.
func (f *facts) rowAt(p Position) int {
	o := &f.ev.Oracle
	i := sort.Search(len(o.Rows), func(i int) bool { return o.At(i).Compare(p) >= 0 })
	if i == len(o.Rows) || o.At(i) != p {
		return -1
	}
	return i
}

// laneCheckpoints returns the indexes of the checkpoints that count.
func (f *facts) laneCheckpoints() []int {
	var all []int
	for i := range f.ev.Checkpoints {
		if c := &f.ev.Checkpoints[i]; c.Committed && c.Kind == checkpoint.Lane && c.Fault == "" {
			all = append(all, i)
		}
	}
	return all
}

// covered tells whether a checkpoint says that the row at p is published.
func covered(c checkpoint.Position, p Position) bool {
	switch {
	case p.Timeline != c.Timeline:
		return p.Timeline < c.Timeline
	case p.LSN < c.EndLSN:
		return true
	}
	return c.Ordinal > 0 && p.LSN == c.CommitLSN && uint64(p.Ord) <= c.Ordinal
}
