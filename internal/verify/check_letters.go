package verify

// The reasons that matter here; their texts are public.
var (
	parked  = NameOf("parked")  // held back behind an earlier letter of its key
	refused = NameOf("refused") // by a broker
)

// checkLetters is P13: letters are exactly the rows that were marked poison,
// with the reason that their mark names. Where later rows of a key wait behind
// its letter, sound rows are letters too, for as long as one before them is
// open, and none is sent past it.
func checkLetters(f *facts, out *Finding) {
	keys := map[Name]*queue{}
	for i := f.first; i < len(f.refOf); i++ {
		if f.refOf[i] < 0 {
			continue // P1 tells
		}
		r, row := f.refs[f.refOf[i]], &f.ev.Oracle.Rows[i]
		rec, letter := f.record(r), f.ev.Logs[r.log].Letters
		around := func() []string { return aroundRecord(f.ev, int(r.log), int(r.rec)) }
		waits := f.ev.Rules.Parked && letter && rec.Reason == parked
		if row.Marked {
			out.Checked++
			switch {
			case waits && row.Poison && row.Reason != refused:
				// What a broker would refuse is not known before it is asked.
				out.fail(around, "letter %s at %s was parked, its row is poison: %s", rec.ID, place(f.ev, r), row.Reason)
			case waits:
			case letter && !row.Poison:
				out.fail(around, "record %s at %s is a letter, %s, its row is sound", rec.ID, place(f.ev, r), rec.Reason)
			case row.Poison && !letter:
				out.fail(around, "record %s at %s is an event, its row is poison", rec.ID, place(f.ev, r))
			case letter && row.Reason != (Name{}) && rec.Reason != row.Reason:
				out.fail(around, "letter %s at %s has the reason %q, its row is poison for %q", rec.ID, place(f.ev, r), rec.Reason, row.Reason)
			}
		}
		if !f.ev.Rules.Parked || row.Key == (Name{}) {
			continue // without a key there is no order to keep
		}
		if keys[row.Key] == nil {
			keys[row.Key] = &queue{}
		}
		if wrong := keys[row.Key].add(f, r); wrong != "" {
			out.fail(around, "record %s at %s, key %q, %s", rec.ID, place(f.ev, r), row.Key, wrong)
		}
	}
}

// queue is a key whose rows are gone through in the order of their commits.
type queue struct {
	last    ref // of the row before
	letter  bool
	open    ref // the first letter that is open at the end
	blocked bool
}

// add says what is wrong with the next row of the key, going by what was
// delivered of it.
func (q *queue) add(f *facts, r ref) (wrong string) {
	rec, letter := f.record(r), f.ev.Logs[r.log].Letters
	sent := !letter || rec.Reason == parked && len(f.desk.replays[rec.letterKey()]) > 0
	switch {
	case q.blocked && sent:
		wrong = "was sent, and letter " + f.record(q.open).ID.String() + " before it is open"
	case !letter || rec.Reason != parked:
	case !q.letter:
		wrong = "was parked, and nothing before it was a letter"
	default:
		// All that was parked before it went on before it did.
		if n := f.desk.released(f, q.last); n > 0 && n < rec.Ckpt {
			wrong = "was parked, and the letter before it had been released"
		}
	}
	q.last, q.letter = r, letter
	if open, _ := f.desk.open(rec.ID); letter && open && !q.blocked {
		q.open, q.blocked = r, true
	}
	return wrong
}
