package verify_test

import (
	"slices"

	"github.com/holdwall/outbox-relay/internal/verify"
)

const letterLog = 4 // index of the letters among the world's logs

// desk is what has become of the world's letters.
type desk struct {
	parks, tools bool
	tool         verify.Producer
	queues       map[string][]waiting // by key, in the order of the rows
	keys         []string             // of the queues, for choosing among them
}

// waiting is a letter that is not done with.
type waiting struct {
	row    int
	offset int64
	parked bool
	closed bool // by a tool, and the relay does not know yet
}

func newDesk(parks, tools bool) desk {
	return desk{parks: parks, tools: tools, tool: verify.Producer{ID: 9}, queues: map[string][]waiting{}}
}

func (d desk) clone() desk {
	queues := map[string][]waiting{}
	for k, q := range d.queues {
		queues[k] = slices.Clone(q)
	}
	d.queues, d.keys = queues, slices.Clone(d.keys)
	return d
}

func (d *desk) take(row int, offset int64, parked bool, key string) {
	if !slices.Contains(d.keys, key) {
		d.keys = append(d.keys, key)
	}
	d.queues[key] = append(d.queues[key], waiting{row: row, offset: offset, parked: parked})
}

// transaction writes records, marks and, at its end, markers.
type transaction struct {
	w       *world
	by      verify.Producer
	fate    verify.Fate
	touched map[int]bool
	marked  bool
}

func (w *world) transaction(by verify.Producer, fate verify.Fate) *transaction {
	return &transaction{w: w, by: by, fate: fate, touched: map[int]bool{}}
}

func (tx *transaction) write(log int, r verify.Record) (offset int64) {
	l := &tx.w.ev.Logs[log]
	r.Offset, r.Producer, r.Fate, r.Committed = l.HW, tx.by, tx.fate, tx.fate == verify.Commit
	l.Records = append(l.Records, r)
	l.HW++
	tx.touched[log] = true
	return r.Offset
}

func (tx *transaction) mark(q waiting, action verify.Action, topic string) {
	s := &tx.w.ev.State
	s.Marks = append(s.Marks, verify.LetterMark{
		Offset: s.HW, ID: tx.w.ev.Oracle.Rows[q.row].ID, Action: action, Topic: verify.NameOf(topic),
		Letter: verify.Place{Topic: letters, Offset: q.offset}, Producer: tx.by, Fate: tx.fate, Committed: tx.fate == verify.Commit,
	})
	s.HW++
	tx.marked = true
}

func (tx *transaction) end() {
	for log := range tx.touched {
		tx.w.ev.Logs[log].HW++
	}
	if tx.marked {
		tx.w.ev.State.HW++
	}
}

// send writes the replay of a letter and its mark.
func (tx *transaction) send(q waiting, action verify.Action, ckpt uint64) {
	log, rec := tx.w.place(&tx.w.ev.Oracle.Rows[q.row]), tx.w.record(q.row)
	rec.Replayed, rec.ReplayOf, rec.Ckpt = true, rec.ID, ckpt
	tx.write(log, rec)
	tx.mark(q, action, tx.w.ev.Logs[log].Topic)
}

// work lets a person replay or purge some letters: those that block,
// mostly in their order.
func (w *world) work() {
	if !w.desk.tools || len(w.desk.keys) == 0 {
		return
	}
	for range w.choose(4) {
		q := w.desk.queues[w.desk.keys[w.choose(len(w.desk.keys))]]
		if len(q) == 0 {
			continue
		}
		at := 0
		if w.choose(4) == 1 {
			at = w.choose(len(q))
		}
		w.handle(q, at)
	}
}

func (w *world) handle(q []waiting, i int) {
	if q[i].parked || q[i].closed {
		return
	}
	action := []verify.Action{verify.Replayed, verify.Purged, verify.Replayed, verify.Deferred, verify.Replayed}[w.choose(5)]
	if w.desk.parks && action == verify.Replayed && slices.ContainsFunc(q[:i], func(e waiting) bool { return e.parked || !e.closed }) {
		return // it would overtake what is before it
	}
	fate := verify.Commit
	if w.choose(4) == 1 {
		fate = verify.Abort // killed midway
	}
	w.desk.tool.Epoch++
	tx := w.transaction(w.desk.tool, fate)
	if action == verify.Replayed {
		tx.send(q[i], action, 0)
	} else {
		tx.mark(q[i], action, "")
	}
	tx.end()
	q[i].closed = fate == verify.Commit && action != verify.Deferred
}

// release sends on what waits behind letters that are done with.
func (w *world) release(tx *transaction, ckpt uint64) {
	if !w.desk.parks {
		return
	}
	for _, key := range w.desk.keys {
		q := w.desk.queues[key]
		for len(q) > 0 && (q[0].closed || q[0].parked) {
			if row := &w.ev.Oracle.Rows[q[0].row]; q[0].parked && row.Poison {
				// A broker refuses it now, so another letter takes its place.
				rec := w.record(q[0].row)
				rec.Reason, rec.Ckpt, rec.Again = row.Reason, ckpt, true
				offset := tx.write(letterLog, rec)
				tx.mark(q[0], verify.Purged, "")
				q = slices.Clone(q)
				q[0].offset, q[0].parked = offset, false
				break
			}
			if q[0].parked {
				tx.send(q[0], verify.Released, ckpt)
			}
			q = q[1:]
		}
		w.desk.queues[key] = q
	}
}

// settle ends the run: the relay has seen all marks, in a transaction that
// holds releases alone.
func (w *world) settle() {
	if !w.desk.parks || !w.desk.tools {
		return
	}
	marks := w.ev.State.HW
	c := w.next()
	c.Rows = 0
	w.writer.Epoch++
	tx := w.transaction(w.writer, verify.Commit)
	w.release(tx, c.Seq)
	if tx.end(); w.ev.State.HW > marks {
		w.checkpoint(c, verify.Commit)
		w.last = c
	}
}
