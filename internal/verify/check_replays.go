package verify

import "slices"

// checkReplays is P14: a replay is of a letter, equal to the letter's row, and
// there exactly once, in the Kafka transaction in which the state topic says
// so. What was purged is not there.
func checkReplays(f *facts, out *Finding) {
	f.checkMarks(out)
	for _, r := range f.replays {
		out.Checked++
		if wrong := f.wrongReplay(r); wrong != "" {
			rec := f.record(r)
			out.fail(func() []string { return aroundRecord(f.ev, int(r.log), int(r.rec)) },
				"replay of %s at %s %s", rec.ID, place(f.ev, r), wrong)
		}
	}
	for _, r := range f.successors {
		out.Checked++
		rec := f.record(r)
		_, wrong := f.unlike(rec)
		if !f.desk.successor(rec) {
			wrong = "takes the place of none that was purged for it"
		}
		if wrong != "" {
			out.fail(func() []string { return aroundRecord(f.ev, int(r.log), int(r.rec)) },
				"letter %s at %s, which was one before, %s", rec.ID, place(f.ev, r), wrong)
		}
	}
}

// checkMarks holds each mark against the letter that it names and the marks
// before it.
func (f *facts) checkMarks(out *Finding) {
	open := map[letterKey]*LetterMark{} // newest mark
	for i := range f.ev.State.Marks {
		m := &f.ev.State.Marks[i]
		around := func() []string { return aroundMark(f.ev, i) }
		switch {
		case m.Committed != (m.Fate == Commit):
			out.fail(around, "mark %s is shown: %t, and its transaction ended with: %s", m.at(f.ev), m.Committed, m.Fate)
			continue
		case !m.Committed:
			continue
		case m.Fault != "":
			out.fail(around, "mark %s: %s", m.at(f.ev), m.Fault)
			continue
		}
		out.Checked++
		key := letterKey{m.ID, m.Group}
		letter, ok := f.desk.at(m.Letter)
		before := open[key]
		open[key] = m
		switch {
		case !m.Action.sends() && m.Action != Purged && m.Action != Deferred:
			out.fail(around, "mark %s says that letter %s was %q", m.at(f.ev), m.ID, m.Action)
		case !ok && !f.truncated(m.Letter), ok && (!letter.Committed || letter.letterKey() != key):
			out.fail(around, "mark %s says that a letter of %s was at %s, and it is not", m.at(f.ev), m.ID, m.Letter)
		case before != nil && before.closes(m.Letter.Topic, m.Letter.Partition, m.Letter.Offset):
			out.fail(around, "mark %s says that letter %s was %s, and it had been %s before", m.at(f.ev), m.ID, m.Action, before.Action)
		case m.Action.sends() && !f.sent(key, m.Producer):
			out.fail(around, "mark %s says that letter %s was %s, and no record of its transaction is", m.at(f.ev), m.ID, m.Action)
		}
	}
}

// truncated tells whether a topic of letters no longer begins where a letter was.
func (f *facts) truncated(p Place) bool {
	log := f.log(p.Topic, p.Partition)
	return log >= 0 && p.Offset < f.ev.Logs[log].Start
}

// sent tells whether a producer sent a replay of the letter.
func (f *facts) sent(key letterKey, by Producer) bool {
	return slices.ContainsFunc(f.desk.replays[key], func(r ref) bool { return f.record(r).Producer == by })
}

// wrongReplay says what is wrong with a replay.
func (f *facts) wrongReplay(r ref) string {
	rec := f.record(r)
	key := rec.letterKey()
	if rec.ReplayOf != rec.ID {
		return "names another letter: " + rec.ReplayOf.String()
	}
	if len(f.desk.letters[key]) == 0 {
		return "is of no letter"
	}
	row, wrong := f.unlike(rec)
	if wrong != "" {
		return wrong
	}
	m, n, more := f.markOf(r)
	switch {
	case m == nil && f.ev.State.Compacted && len(f.desk.marks[key]) > 0:
		return "" // a newer mark stands for it
	case m == nil:
		return "has no mark in its transaction"
	case more > n:
		return "is there more often than marks say"
	case (m.Action == Released) != (rec.Ckpt > 0):
		return "is marked as " + string(m.Action) + ", which is for others to say"
	}
	return f.misplaced(r, row, m)
}

// unlike returns the row at a record's position, and says how the two differ.
func (f *facts) unlike(rec *Record) (row *Row, how string) {
	at := f.rowOfRecord(rec)
	if at < 0 {
		return nil, "names " + rec.At().String() + ", where no row was committed"
	}
	row = &f.ev.Oracle.Rows[at]
	switch {
	case row.ID != rec.ID:
		how = "names the position of row " + row.ID.String()
	case row.Hash != rec.Hash && (row.Hash != 0 || rec.Hash != HashOf([]byte(nullText))):
		how = "has another payload than its row"
	case row.Key != rec.Key && !rec.Keyless:
		how = "has the key " + rec.Key.String() + ", its row has " + row.Key.String()
	case !rec.Recovered && uint32(at)-f.ev.Oracle.Txs[row.Tx].First+1 != rec.Seq:
		how = "names another row of its transaction"
	}
	return row, how
}

// misplaced says whether a replay went elsewhere than its mark and its row ask.
func (f *facts) misplaced(r ref, row *Row, m *LetterMark) string {
	l := &f.ev.Logs[r.log]
	if m.Topic.String() != l.Topic {
		return "is marked to be in topic " + m.Topic.String()
	}
	if m.Group != (Name{}) {
		return "" // the group's own topics are its own matter
	}
	redirected := slices.Contains(f.ev.Rules.Redirects, l.Topic)
	want := row.Topic.String()
	if want == "" {
		want = f.ev.Rules.Topic
	}
	if want != "" && want != l.Topic && !redirected {
		return "belongs to topic " + want
	}
	if partition := f.partitionOf(row, l.Topic); partition >= 0 && partition != l.Partition && !(redirected && row.Partition >= 0) {
		return "is in another partition than its row belongs in"
	}
	return ""
}

// markOf returns the mark in the transaction of a replay, how many such there
// are, and how many replays they are for.
func (f *facts) markOf(r ref) (mark *LetterMark, marks, replays int) {
	rec := f.record(r)
	for _, m := range f.desk.marks[rec.letterKey()] {
		if m.Action.sends() && m.Producer == rec.Producer {
			mark, marks = m, marks+1
		}
	}
	for _, o := range f.desk.replays[rec.letterKey()] {
		if f.record(o).Producer == rec.Producer {
			replays++
		}
	}
	return mark, marks, replays
}
