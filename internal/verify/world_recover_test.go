package verify_test

import (
	"fmt"
	"time"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/verify"
)

// recover loses the slot and publishes some whole transactions from the table. It
// returns how many rows that were: none where one of them would be a letter.
func (w *world) recover(row int) int {
	o := &w.ev.Oracle
	last := min(int(o.Rows[row].Tx)+w.choose(3), len(o.Txs)-1)
	n := len(o.Rows) - row
	if last+1 < len(o.Txs) {
		n = int(o.Txs[last+1].First) - row
	}
	for _, r := range o.Rows[row : row+n] {
		if r.Poison || len(w.desk.queues[r.Key.String()]) > 0 {
			return 0
		}
	}
	remade := max(o.Txs[last].EndLSN, w.last.Pos.EndLSN) + 2
	look := func() {
		w.now = w.now.Add(50 * time.Millisecond)
		w.ev.Samples = append(w.ev.Samples, verify.Sample{At: w.now, Seq: w.last.Seq, End: w.last.Pos.EndLSN, LSO: w.topic, HW: w.topic, Confirmed: remade, Epoch: w.session + 1000})
	}
	commit := func(c checkpoint.Checkpoint) {
		w.writer.Epoch++
		w.checkpoint(c, verify.Commit)
		w.last = c
	}
	w.begin()
	c := w.next()
	c.Rows, c.Recovery = 0, &checkpoint.Recovery{ID: fmt.Sprint("recovery-", w.session), Code: "OBX-3103", Began: w.now}
	look()
	commit(c)
	for at := row; at < row+n; {
		if w.choose(3) == 1 {
			w.begin() // it was killed
		}
		part := min(1+w.choose(4), row+n-at)
		c := w.next()
		first := c.RowsTotal
		c.Rows, c.RowsTotal = uint64(part), c.RowsTotal+uint64(part)
		c.Pos.CommitLSN, c.Pos.Ordinal = remade-1, c.RowsTotal
		w.writer.Epoch++
		fate := []verify.Fate{verify.Commit, verify.Commit, verify.Abort}[w.choose(3)]
		tx := w.transaction(w.writer, fate)
		for i := range part {
			rec := w.record(at + i)
			rec.LSN, rec.Ord, rec.Recovered, rec.Ckpt = remade-1, uint32(first)+uint32(i)+1, true, c.Seq
			rec.Seq = rec.Ord
			tx.write(w.place(&o.Rows[at+i]), rec)
		}
		tx.end()
		w.checkpoint(c, fate)
		if fate == verify.Abort {
			w.begin()
			continue
		}
		w.last = c
		at += part
		look()
	}
	c = w.next()
	c.Rows, c.Recovery = 0, nil
	c.Pos = checkpoint.Position{Timeline: 1, EndLSN: remade, CommitLSN: remade - 1}
	commit(c)
	look()
	return n
}
