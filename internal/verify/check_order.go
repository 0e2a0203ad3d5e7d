package verify

import "github.com/twmb/franz-go/pkg/kgo"

// checkKeyOrder is P4: within a partition the events of a key are in the order
// in which their rows were committed; where later rows wait behind a letter,
// replays included. The key sequence in the payload says so
// where there is one: it owes nothing to LSNs, headers or the oracle. Holes in
// it are not looked at: a row that is nowhere is P1's, one that comes too late
// is an inversion.
func checkKeyOrder(f *facts, out *Finding) {
	rows := f.rowsByLog()
	if f.ev.Rules.Parked {
		f.addReplays(rows)
	}
	for i := range f.ev.Logs {
		l := &f.ev.Logs[i]
		type last struct {
			seq uint32
			row int32
			rec int
		}
		seen := map[Name]last{}
		for j := range l.Records {
			rec, row := &l.Records[j], rows[i][j]
			if row < 0 {
				continue
			}
			out.Checked++
			prev, ok := seen[rec.Key]
			around := func() []string { return aroundRecord(f.ev, i, j) }
			switch {
			case !ok:
			case prev.seq > 0 && rec.KeySeq > 0:
				if rec.KeySeq <= prev.seq {
					out.fail(around, "key %q in %s/%d has key_seq %d at offset %d, after %d at offset %d",
						rec.Key, l.Topic, l.Partition, rec.KeySeq, rec.Offset, prev.seq, l.Records[prev.rec].Offset)
				}
			case row <= prev.row:
				out.fail(around, "key %q in %s/%d has %s at offset %d, after %s at offset %d", rec.Key, l.Topic, l.Partition,
					f.ev.Oracle.At(int(row)), rec.Offset, f.ev.Oracle.At(int(prev.row)), l.Records[prev.rec].Offset)
			}
			seen[rec.Key] = last{rec.KeySeq, row, j}
		}
	}
}

// rowsByLog turns rowOf round: by log and record, the row, or -1.
func (f *facts) rowsByLog() [][]int32 {
	rows := make([][]int32, len(f.ev.Logs))
	for i := range rows {
		rows[i] = make([]int32, len(f.ev.Logs[i].Records))
		for j := range rows[i] {
			rows[i][j] = -1
		}
	}
	for i, r := range f.refs {
		rows[r.log][r.rec] = f.rowOf[i]
	}
	return rows
}

// addReplays puts the replays among the events: of each letter the first, and
// none of what was no letter, for P14 tells of those.
func (f *facts) addReplays(rows [][]int32) {
	done := map[letterKey]struct{}{}
	for _, r := range f.replays {
		key := f.record(r).letterKey()
		if _, again := done[key]; again || key.group != (Name{}) || len(f.desk.letters[key]) == 0 {
			continue
		}
		done[key] = struct{}{}
		rows[r.log][r.rec] = int32(f.rowOfRecord(f.record(r)))
	}
}

// checkPartitionOrder is P5: within a partition positions grow.
func checkPartitionOrder(f *facts, out *Finding) {
	for i := range f.ev.Logs {
		l := &f.ev.Logs[i]
		last := -1
		for j := range l.Records {
			rec := &l.Records[j]
			if !rec.delivery() {
				continue
			}
			out.Checked++
			if last >= 0 && l.Records[last].At().Compare(rec.At()) >= 0 {
				out.fail(func() []string { return aroundRecord(f.ev, i, j) }, "%s/%d has %s at offset %d, after %s at offset %d",
					l.Topic, l.Partition, rec.At(), rec.Offset, l.Records[last].At(), l.Records[last].Offset)
			}
			last = j
		}
	}
}

// checkPlacement is P6: an event has the key of its row, is in the topic that
// the row asks for, and in the partition that the row asks for or that the Java
// client would choose for the key. A letter keeps its key, unless it had to
// leave it out.
func checkPlacement(f *facts, out *Finding) {
	for i, r := range f.refs {
		if f.rowOf[i] < 0 {
			continue
		}
		out.Checked++
		l, rec, row := &f.ev.Logs[r.log], f.record(r), &f.ev.Oracle.Rows[f.rowOf[i]]
		around := func() []string { return aroundRecord(f.ev, int(r.log), int(r.rec)) }
		if rec.Key != row.Key && !rec.Keyless {
			out.fail(around, "record %s at %s has key %q, its row has %q", rec.ID, place(f.ev, r), rec.Key, row.Key)
			continue
		}
		if l.Letters {
			continue
		}
		want := row.Topic.String()
		if want == "" {
			want = f.ev.Rules.Topic
		}
		if want != "" && l.Topic != want {
			out.fail(around, "record %s is at %s, its row belongs to topic %s", rec.ID, place(f.ev, r), want)
			continue
		}
		if partition := f.partitionOf(row, l.Topic); partition >= 0 && l.Partition != partition {
			out.fail(around, "record %s, key %q, is at %s, it belongs to partition %d", rec.ID, rec.Key, place(f.ev, r), partition)
		}
	}
}

// partitionOf is the partition of a topic in which a row belongs; -1: any.
func (f *facts) partitionOf(row *Row, topic string) int32 {
	switch {
	case row.Partition >= 0:
		return row.Partition
	case row.Key == (Name{}):
		return -1
	}
	return int32(f.byKey.Partition(&kgo.Record{Key: []byte(row.Key.String())}, f.partitions[topic]))
}
