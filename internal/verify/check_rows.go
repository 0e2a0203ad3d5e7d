package verify

import (
	"bytes"
	"slices"
)

// checkLoss is P1: every committed row is shown to consumers, as an event or
// as a letter.
func checkLoss(f *facts, out *Finding) {
	for i := f.first; i < len(f.refOf); i++ {
		out.Checked++
		if f.refOf[i] < 0 {
			r := &f.ev.Oracle.Rows[i]
			out.fail(func() []string { return aroundRow(f.ev, i) },
				"row %s at %s, key %q, is in no topic", r.ID, f.ev.Oracle.At(i), r.Key)
		}
	}
}

// checkDuplicates is P2: each position and each id once over all topics.
func checkDuplicates(f *facts, out *Finding) {
	out.Checked = len(f.refs)
	same := func(a, b ref, what string, v any) {
		out.fail(func() []string {
			return append(aroundRecord(f.ev, int(a.log), int(a.rec)), aroundRecord(f.ev, int(b.log), int(b.rec))...)
		}, "%s %v is at %s and at %s", what, v, place(f.ev, a), place(f.ev, b))
	}
	for i := 1; i < len(f.refs); i++ {
		if at := f.record(f.refs[i]).At(); at == f.record(f.refs[i-1]).At() {
			same(f.refs[i-1], f.refs[i], "position", at)
		}
	}
	byID := slices.Clone(f.refs)
	slices.SortFunc(byID, func(a, b ref) int {
		x, y := f.record(a).ID, f.record(b).ID
		return bytes.Compare(x[:], y[:])
	})
	for i := 1; i < len(byID); i++ {
		a, b := f.record(byID[i-1]), f.record(byID[i])
		// Two records of one position were counted above.
		if a.ID == b.ID && a.At() != b.At() {
			same(byID[i-1], byID[i], "id", a.ID)
		}
	}
}

// nullText is what a NULL payload is published as where tombstones are off.
const nullText = "null"

// checkInvented is P3: every record that consumers are shown is a committed
// row, unchanged. Of a row that was rolled back not even an aborted
// transaction may hold a record: the relay never reads such a row.
func checkInvented(f *facts, out *Finding) {
	null := HashOf([]byte(nullText))
	for i, r := range f.refs {
		out.Checked++
		rec := f.record(r)
		around := func() []string { return aroundRecord(f.ev, int(r.log), int(r.rec)) }
		if f.rowOf[i] < 0 {
			out.fail(around, "record %s at %s names %s, where no row was committed", rec.ID, place(f.ev, r), rec.At())
			continue
		}
		o := &f.ev.Oracle
		row := &o.Rows[f.rowOf[i]]
		if rec.Recovered {
			switch {
			case f.rowAt(rec.At()) >= 0:
				out.fail(around, "record %s at %s was recovered, and names %s, where another row was committed", rec.ID, place(f.ev, r), rec.At())
			case rec.At().Compare(o.At(int(f.rowOf[i]))) <= 0:
				out.fail(around, "record %s at %s was recovered at %s, its row was committed later, at %s", rec.ID, place(f.ev, r), rec.At(), o.At(int(f.rowOf[i])))
			case row.Hash != rec.Hash && (row.Hash != 0 || rec.Hash != null):
				out.fail(around, "record %s at %s has another payload than its row", rec.ID, place(f.ev, r))
			case rec.Seq != rec.Ord:
				out.fail(around, "record %s at %s was recovered as row %d, and says %d", rec.ID, place(f.ev, r), rec.Ord, rec.Seq)
			}
			continue
		}
		seq := uint32(f.rowOf[i]) - o.Txs[row.Tx].First + 1
		switch {
		case row.ID != rec.ID:
			out.fail(around, "record at %s has id %s, the row at %s has %s", place(f.ev, r), rec.ID, rec.At(), row.ID)
		case row.Hash != rec.Hash && (row.Hash != 0 || rec.Hash != null):
			out.fail(around, "record %s at %s has another payload than its row", rec.ID, place(f.ev, r))
		case rec.Seq != seq:
			out.fail(around, "record %s at %s says it is row %d of its transaction, it is row %d", rec.ID, place(f.ev, r), rec.Seq, seq)
		}
	}
	for i := range f.ev.Logs {
		l := &f.ev.Logs[i]
		for j := range l.Records {
			if rec := &l.Records[j]; rec.Undone {
				out.fail(func() []string { return aroundRecord(f.ev, i, j) },
					"record %s at %s/%d@%d is of a row that was rolled back", rec.ID, l.Topic, l.Partition, rec.Offset)
			}
		}
	}
}
