package verify

import "github.com/holdwall/outbox-relay/checkpoint"

// checkCheckpoints is P9: number and position grow, the totals add up, and
// sessions follow one another without coming back.
func checkCheckpoints(f *facts, out *Finding) {
	lanes := f.laneCheckpoints()
	for n, i := range lanes {
		out.Checked++
		if n == 0 {
			continue
		}
		rec := &f.ev.Checkpoints[i]
		c, p := &rec.Checkpoint, &f.ev.Checkpoints[lanes[n-1]].Checkpoint
		around := func() []string { return aroundCheckpoint(f.ev, lanes, n) }
		moved := c.Pos.Compare(p.Pos)
		if c.Pos.Timeline != p.Pos.Timeline {
			moved = int(c.Pos.Timeline) - int(p.Pos.Timeline)
		}
		switch {
		case c.Seq <= p.Seq:
			out.fail(around, "checkpoint %d at offset %d follows %d", c.Seq, rec.Offset, p.Seq)
		case c.Seq != p.Seq+1 && !rec.Hole:
			out.fail(around, "checkpoint %d at offset %d follows %d, and nothing was compacted away", c.Seq, rec.Offset, p.Seq)
		case moved < 0:
			out.fail(around, "checkpoint %d goes back from %s to %s", c.Seq, p.Pos, c.Pos)
		case moved == 0 && c.Rows > 0 && !rec.Hole:
			out.fail(around, "checkpoint %d holds %d rows and stays at %s", c.Seq, c.Rows, c.Pos)
		case c.Pos.Timeline == p.Pos.Timeline && c.Pos.CommitLSN < p.Pos.CommitLSN:
			out.fail(around, "checkpoint %d goes back from commit %s to %s", c.Seq, p.Pos.CommitLSN, c.Pos.CommitLSN)
		case c.SessionID == p.SessionID && c.SessionNo != p.SessionNo, c.SessionID != p.SessionID && c.SessionNo <= p.SessionNo:
			out.fail(around, "checkpoint %d of session %s has session number %d after %d", c.Seq, c.SessionID, c.SessionNo, p.SessionNo)
		case c.Seq == p.Seq+1 && c.RowsTotal != p.RowsTotal+c.Rows:
			out.fail(around, "checkpoint %d adds %d rows to %d and has %d", c.Seq, c.Rows, p.RowsTotal, c.RowsTotal)
		case c.Source != p.Source:
			out.fail(around, "checkpoint %d is of another source than %d", c.Seq, p.Seq)
		}
	}
	f.checkSessions(out)
}

// checkSessions looks at barriers as well: a session that writes anything after
// another has begun is a zombie that was not fenced.
func (f *facts) checkSessions(out *Finding) {
	var current string
	over := map[string]struct{}{}
	for i := range f.ev.Checkpoints {
		c := &f.ev.Checkpoints[i]
		if !c.Committed {
			continue
		}
		if c.Fault != "" {
			out.fail(nil, "record at offset %d of the checkpoint topic: %s", c.Offset, c.Fault)
			continue
		}
		if c.Kind != checkpoint.Lane && c.Kind != checkpoint.Session || c.Session == current {
			continue
		}
		if _, ok := over[c.Session]; ok {
			out.fail(func() []string { return aroundTopic(f.ev, i) },
				"session %s writes at offset %d, after session %s had begun", c.Session, c.Offset, current)
			continue
		}
		over[current] = struct{}{}
		current = c.Session
	}
}

// remade tells whether the slot was made anew for a recovery that had not ended: it
// then begins where that ends, and stays there.
func (f *facts) remade(s *Sample) bool {
	lanes := f.laneCheckpoints()
	for n, i := range lanes {
		end := &f.ev.Checkpoints[i].Checkpoint
		begin, ends := f.recovery(lanes, n)
		if !ends || s.Seq >= end.Seq || s.Confirmed != end.Pos.EndLSN {
			continue
		}
		if begin == 0 || s.Seq >= f.ev.Checkpoints[lanes[begin-1]].Checkpoint.Seq {
			return true
		}
	}
	return false
}

// checkSlot is P10: Postgres is never told of more than a checkpoint holds, and
// what it was told it keeps, unless it crashed: slots are saved only now and
// then.
func checkSlot(f *facts, out *Finding) {
	for i := range f.ev.Samples {
		s := &f.ev.Samples[i]
		out.Checked++
		around := func() []string { return aroundSample(f.ev, i) }
		if s.Seq > 0 && s.Confirmed > s.End && !f.remade(s) {
			out.fail(around, "slot is confirmed to %s, the newest checkpoint %d ends at %s", s.Confirmed, s.Seq, s.End)
		}
		if i == 0 {
			continue
		}
		p := &f.ev.Samples[i-1]
		switch {
		case s.Confirmed < p.Confirmed && s.Epoch == p.Epoch:
			out.fail(around, "slot went back from %s to %s", p.Confirmed, s.Confirmed)
		case s.Seq < p.Seq || s.End < p.End:
			out.fail(around, "newest checkpoint went back from %d at %s to %d at %s", p.Seq, p.End, s.Seq, s.End)
		}
	}
}
