package verify

import "slices"

// checkVisibility is P7: consumers are shown exactly what was committed, and a
// transaction is shown whole or not at all. Only consumers may write their
// letters outside of any. Whether a replay by a tool is whole says P14, by its
// mark.
func checkVisibility(f *facts, out *Finding) {
	hidden := map[attempt]struct{}{}
	for i := range f.ev.Logs {
		l := &f.ev.Logs[i]
		for j := range l.Records {
			rec := &l.Records[j]
			out.Checked++
			around := func() []string { return aroundRecord(f.ev, i, j) }
			switch {
			case rec.Committed && rec.Fate != Commit && rec.Fate != NoTransaction:
				out.fail(around, "record %s at %s/%d@%d is shown, and its transaction ended with: %s", rec.ID, l.Topic, l.Partition, rec.Offset, rec.Fate)
			case !rec.Committed && (rec.Fate == Commit || rec.Fate == NoTransaction):
				out.fail(around, "record %s at %s/%d@%d is not shown, and its transaction ended with: %s", rec.ID, l.Topic, l.Partition, rec.Offset, rec.Fate)
			case rec.Committed && rec.Fate == NoTransaction && !(l.Letters && rec.Group != (Name{})):
				out.fail(around, "record %s at %s/%d@%d was written outside of any transaction", rec.ID, l.Topic, l.Partition, rec.Offset)
			case !rec.Committed && (rec.Ckpt > 0 || !rec.Replayed):
				hidden[attempt{rec.Producer, rec.Ckpt}] = struct{}{}
			}
		}
	}
	f.checkTorn(hidden, out)
}

// attempt is one try to commit a group.
type attempt struct {
	producer Producer
	ckpt     uint64
}

// checkTorn looks for transactions of which only a part is shown. A producer
// may have written a row again after an abort: below transaction.version=2
// such a retry has the same epoch, and may have the same number.
func (f *facts) checkTorn(hidden map[attempt]struct{}, out *Finding) {
	if len(hidden) == 0 {
		return
	}
	partly := map[attempt]struct{}{}
	written := map[Producer]map[Position]struct{}{}
	recovered := map[Producer]map[ID]struct{}{} // under another position
	for a := range hidden {
		written[a.producer], recovered[a.producer] = map[Position]struct{}{}, map[ID]struct{}{}
	}
	for _, r := range slices.Concat(f.refs, f.replays) {
		rec := f.record(r)
		a := attempt{rec.Producer, rec.Ckpt}
		if _, ok := hidden[a]; ok {
			partly[a] = struct{}{}
		}
		if w := written[rec.Producer]; w != nil {
			w[rec.At()] = struct{}{}
			if rec.Recovered {
				recovered[rec.Producer][rec.ID] = struct{}{}
			}
		}
	}
	for i := range f.ev.Logs {
		l := &f.ev.Logs[i]
		for j := range l.Records {
			rec := &l.Records[j]
			if rec.Committed {
				continue
			}
			_, torn := partly[attempt{rec.Producer, rec.Ckpt}]
			_, again := written[rec.Producer][rec.At()]
			if _, other := recovered[rec.Producer][rec.ID]; torn && !again && !other {
				out.fail(func() []string { return aroundRecord(f.ev, i, j) },
					"record %s at %s/%d@%d is not shown, other records of its group %d are", rec.ID, l.Topic, l.Partition, rec.Offset, rec.Ckpt)
			}
		}
	}
}

// checkPrefix is P11: what a live reader had seen of a partition at any time
// is a prefix of what the partition holds at the end.
func checkPrefix(f *facts, out *Finding) {
	for i := range f.ev.Sightings {
		s := &f.ev.Sightings[i]
		for _, fault := range s.Faults {
			out.fail(nil, "live reader of %s/%d: %s", s.Topic, s.Partition, fault)
		}
		log := f.log(s.Topic, s.Partition)
		if log < 0 {
			if len(s.Offsets) > 0 {
				out.fail(nil, "live reader saw %d records of %s/%d, which is gone", len(s.Offsets), s.Topic, s.Partition)
			}
			continue
		}
		l := &f.ev.Logs[log]
		rec := 0
		for n, offset := range s.Offsets {
			out.Checked++
			if n > 0 && offset <= s.Offsets[n-1] {
				out.fail(func() []string { return aroundOffset(f.ev, log, offset) },
					"live reader of %s/%d saw offset %d after %d", l.Topic, l.Partition, offset, s.Offsets[n-1])
				continue
			}
			// Whatever is shown below this offset now was shown then.
			for ; rec < len(l.Records) && l.Records[rec].Offset < offset; rec++ {
				if r := &l.Records[rec]; r.Committed && r.Offset >= s.Start {
					out.fail(func() []string { return aroundRecord(f.ev, log, rec) },
						"record %s came to light at %s/%d@%d after a live reader had read past it, to %d", r.ID, l.Topic, l.Partition, r.Offset, offset)
				}
			}
			if rec < len(l.Records) && l.Records[rec].Offset == offset && l.Records[rec].Committed && l.Records[rec].ID.short() == s.IDs[n] {
				rec++
				continue
			}
			if offset >= l.Start {
				out.fail(func() []string { return aroundOffset(f.ev, log, offset) },
					"what a live reader saw at %s/%d@%d is not there at the end", l.Topic, l.Partition, offset)
			}
			if rec < len(l.Records) && l.Records[rec].Offset == offset {
				rec++
			}
		}
	}
}

func (f *facts) log(topic string, partition int32) int {
	for i := range f.ev.Logs {
		if f.ev.Logs[i].Topic == topic && f.ev.Logs[i].Partition == partition {
			return i
		}
	}
	return -1
}

// checkOpen is the part of P12 that can be read from the logs: after the run
// has come to rest no transaction is open.
func checkOpen(f *facts, out *Finding) {
	if !f.ev.Rules.Quiet {
		return
	}
	for i := range f.ev.Logs {
		l := &f.ev.Logs[i]
		out.Checked++
		if l.LSO != l.HW {
			out.fail(func() []string { return aroundOffset(f.ev, i, l.LSO) },
				"%s/%d is readable to %d of %d: a transaction is open", l.Topic, l.Partition, l.LSO, l.HW)
		}
	}
	if s := &f.ev.State; s.LSO != s.HW {
		out.fail(nil, "%s/0 is readable to %d of %d: a transaction is open", s.Topic, s.LSO, s.HW)
	}
	if f.ev.Rules.Parked {
		f.checkForgotten(out)
	}
}

// checkForgotten looks for letters that are parked behind nothing.
func (f *facts) checkForgotten(out *Finding) {
	blocked := map[Name]struct{}{}
	for i, at := range f.refOf {
		if at < 0 || !f.ev.Logs[f.refs[at].log].Letters {
			continue
		}
		row := &f.ev.Oracle.Rows[i]
		open, waits := f.desk.open(f.record(f.refs[at]).ID)
		if !open {
			continue
		}
		if !waits {
			blocked[row.Key] = struct{}{}
			continue
		}
		out.Checked++
		if _, ok := blocked[row.Key]; !ok {
			r := f.refs[at]
			out.fail(func() []string { return aroundRecord(f.ev, int(r.log), int(r.rec)) },
				"letter %s at %s, key %q, is parked, and no letter before it is open", row.ID, place(f.ev, r), row.Key)
		}
	}
}
