package verify

// checkEvidence is P0: the evidence can be judged by. The oracle is a slot of
// the same server, so a mistake there would hide the same mistake of the
// relay; the table and the generator's key sequence are witnesses apart.
func checkEvidence(ev *Evidence, out *Finding) {
	o := &ev.Oracle
	out.Checked = len(o.Rows)
	last := map[Name]uint32{}
	for i := range o.Rows {
		r := &o.Rows[i]
		if i > 0 && o.At(i-1).Compare(o.At(i)) >= 0 {
			out.fail(func() []string { return aroundRow(ev, i) }, "oracle row %s does not lie behind %s", o.At(i), o.At(i-1))
		}
		if r.KeySeq == 0 {
			continue
		}
		// Counting may have begun before the slot did, so the first is free.
		if prev, ok := last[r.Key]; ok && r.KeySeq != prev+1 {
			out.fail(func() []string { return aroundRow(ev, i) },
				"oracle has key_seq %d of key %q at %s, after %d: a transaction is missing, or commits are not in order", r.KeySeq, r.Key, o.At(i), prev)
		}
		last[r.Key] = r.KeySeq
	}
	if n := o.OnlyInTable + o.OnlyInSlot; n > 0 {
		out.fail(nil, "slot and table disagree: %d ids only in the table, %d only in the slot, such as %v", o.OnlyInTable, o.OnlyInSlot, o.Disagree)
	}
	for i := range ev.Logs {
		l := &ev.Logs[i]
		for j := 1; j < len(l.Records); j++ {
			if l.Records[j].Offset <= l.Records[j-1].Offset {
				out.fail(func() []string { return aroundRecord(ev, i, j) }, "%s/%d was not read in offset order", l.Topic, l.Partition)
			}
		}
	}
	for i := 1; i < len(ev.State.Marks); i++ {
		if ev.State.Marks[i].Offset <= ev.State.Marks[i-1].Offset {
			out.fail(nil, "%s was not read in offset order", ev.State.Topic)
		}
	}
}
