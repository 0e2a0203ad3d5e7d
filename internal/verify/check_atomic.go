package verify

import "slices"

// checkAtomicity is P8: the rows between two checkpoints are one Kafka
// transaction, and the second checkpoint is its last record. So the row, the
// checkpoint that first covers it, the number in the record's header and the
// producer must all agree. A source transaction is whole or cut only where a
// checkpoint says so.
func checkAtomicity(f *facts, out *Finding) {
	lanes := f.laneCheckpoints()
	if len(lanes) == 0 {
		if len(f.refs) > 0 {
			out.fail(func() []string { return aroundRecord(f.ev, int(f.refs[0].log), int(f.refs[0].rec)) },
				"%d records are shown and no checkpoint is", len(f.refs))
		}
		return
	}
	counts := map[uint64]uint64{}
	for _, r := range f.refs {
		counts[f.record(r).Ckpt]++
	}
	f.checkIntervals(lanes, out)

	known, holes := map[uint64]*CheckpointRecord{}, false
	for n, i := range lanes {
		c := &f.ev.Checkpoints[i]
		holes = holes || c.Hole
		known[c.Checkpoint.Seq] = c
		out.Checked++
		if counts[c.Checkpoint.Seq] != c.Checkpoint.Rows {
			out.fail(func() []string { return aroundCheckpoint(f.ev, lanes, n) },
				"checkpoint %d says %d rows, %d records carry its number", c.Checkpoint.Seq, c.Checkpoint.Rows, counts[c.Checkpoint.Seq])
		}
	}
	last := f.ev.Checkpoints[lanes[len(lanes)-1]].Checkpoint.Seq
	for _, r := range f.refs {
		rec := f.record(r)
		around := func() []string { return aroundRecord(f.ev, int(r.log), int(r.rec)) }
		c, ok := known[rec.Ckpt]
		switch {
		case ok && rec.Recovered != (c.Checkpoint.Recovery != nil):
			out.fail(around, "record %s at %s says that it was recovered: %t, its checkpoint %d that a recovery was under way: %t",
				rec.ID, place(f.ev, r), rec.Recovered, rec.Ckpt, c.Checkpoint.Recovery != nil)
		case ok && c.Producer != rec.Producer:
			out.fail(around, "record %s at %s was written by producer %v, its checkpoint %d by %v", rec.ID, place(f.ev, r), rec.Producer, rec.Ckpt, c.Producer)
		case !ok && rec.Ckpt > last:
			out.fail(around, "record %s at %s is of group %d, the last checkpoint is %d", rec.ID, place(f.ev, r), rec.Ckpt, last)
		case !ok && rec.Recovered && !holes:
			// Of other rows their interval tells.
			out.fail(around, "record %s at %s was recovered with checkpoint %d, which is not there", rec.ID, place(f.ev, r), rec.Ckpt)
		}
	}
	f.checkReleases(known, last, out)
}

// checkReleases looks at what the relay made of parked letters. Such records carry the number of
// the checkpoint in whose transaction they are, and are no rows of its interval:
// those were counted as letters. A replay by a tool has no number.
func (f *facts) checkReleases(known map[uint64]*CheckpointRecord, last uint64, out *Finding) {
	for _, r := range slices.Concat(f.replays, f.successors) {
		rec := f.record(r)
		if rec.Ckpt == 0 && rec.Replayed {
			continue
		}
		out.Checked++
		around := func() []string { return aroundRecord(f.ev, int(r.log), int(r.rec)) }
		c, ok := known[rec.Ckpt]
		letter := f.desk.letter(rec.letterKey())
		switch {
		case ok && c.Producer != rec.Producer:
			out.fail(around, "record %s at %s was written by producer %v, its checkpoint %d by %v", rec.ID, place(f.ev, r), rec.Producer, rec.Ckpt, c.Producer)
		case !ok && rec.Ckpt > last:
			out.fail(around, "record %s at %s is of group %d, the last checkpoint is %d", rec.ID, place(f.ev, r), rec.Ckpt, last)
		case letter != nil && rec.Ckpt < letter.Ckpt:
			out.fail(around, "record %s at %s is of group %d, the letter before it is of %d", rec.ID, place(f.ev, r), rec.Ckpt, letter.Ckpt)
		}
	}
}

// checkIntervals walks rows and checkpoints together.
func (f *facts) checkIntervals(lanes []int, out *Finding) {
	o := &f.ev.Oracle
	n := 0
	for i := range o.Rows {
		for n < len(lanes) && !covered(f.ev.Checkpoints[lanes[n]].Checkpoint.Pos, o.At(i)) {
			n++
		}
		around := func() []string {
			return append(aroundRow(f.ev, i), aroundCheckpoint(f.ev, lanes, min(n, len(lanes)-1))...)
		}
		at := f.refOf[i]
		if n == len(lanes) {
			if at >= 0 {
				out.fail(around, "row %s at %s is published, no checkpoint covers it", o.Rows[i].ID, o.At(i))
			}
			continue
		}
		c := &f.ev.Checkpoints[lanes[n]]
		if i < f.first {
			if at >= 0 {
				out.fail(around, "row %s at %s is published, it lies before the first checkpoint", o.Rows[i].ID, o.At(i))
			}
			continue
		}
		out.Checked++
		if at < 0 {
			out.fail(around, "row %s at %s is not there, checkpoint %d covers it", o.Rows[i].ID, o.At(i), c.Checkpoint.Seq)
			continue
		}
		// Where checkpoints were compacted away, the group may be any of
		// those that are missing.
		low := c.Checkpoint.Seq
		if c.Hole {
			low = 1
			if n > 0 {
				low = f.ev.Checkpoints[lanes[n-1]].Checkpoint.Seq + 1
			}
		}
		// What the end of a recovery covers was published since its beginning, and
		// nothing else was.
		begin, ends := f.recovery(lanes, n)
		if ends {
			low = f.ev.Checkpoints[lanes[begin]].Checkpoint.Seq
		}
		if rec := f.record(f.refs[at]); rec.Recovered != ends {
			out.fail(around, "row %s at %s was recovered: %t, and checkpoint %d, which covers it, ends a recovery: %t", o.Rows[i].ID, o.At(i), rec.Recovered, c.Checkpoint.Seq, ends)
			continue
		}
		if rec := f.record(f.refs[at]); rec.Ckpt < low || rec.Ckpt > c.Checkpoint.Seq {
			out.fail(around, "row %s at %s was committed with group %d, it belongs to checkpoint %d", o.Rows[i].ID, o.At(i), rec.Ckpt, c.Checkpoint.Seq)
		}
	}
}

// recovery tells whether a checkpoint ends a recovery, and where that began.
func (f *facts) recovery(lanes []int, n int) (begin int, ends bool) {
	under := func(i int) bool { return f.ev.Checkpoints[lanes[i]].Checkpoint.Recovery != nil }
	if n == 0 || under(n) || !under(n-1) {
		return 0, false
	}
	for begin = n - 1; begin > 0 && under(begin-1); begin-- {
	}
	return begin, true
}
