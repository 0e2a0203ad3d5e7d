package verify_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/verify"
)

// world makes the evidence of a run in which everything went right, crashes,
// aborts and cut transactions included. choose returns a number from 0 to n-1:
// rapid's or a seeded one.
type world struct {
	choose func(n int) int
	ev     verify.Evidence

	lsn     pglogrepl.LSN
	seqs    map[string]uint32
	idHigh  int
	session int
	writer  verify.Producer
	last    checkpoint.Checkpoint
	desk    desk
	byKey   kgo.TopicPartitioner
	topic   int64 // next offset of the checkpoint topic
	now     time.Time
}

const (
	events     = "events"
	others     = "others"
	letters    = "events.dlq"
	state      = "events.dlq.state"
	partitions = 3
)

func (w *world) id() verify.ID {
	w.idHigh++
	return verify.ID{byte(w.idHigh >> 16), byte(w.idHigh >> 8), byte(w.idHigh), 1}
}

// newWorld commits n transactions and publishes them. In half of the worlds
// keys wait behind their letters.
func newWorld(n int, choose func(int) int) *world { return makeWorld(n, choose, choose(2) == 1, true) }

// makeWorld is newWorld with the choices made; without tools nothing becomes of
// a letter.
func makeWorld(n int, choose func(int) int, parks, tools bool) *world {
	w := &world{desk: newDesk(parks, tools), byKey: kgo.StickyKeyPartitioner(nil).ForTopic(events), choose: choose, lsn: 0x1000, seqs: map[string]uint32{}, now: time.Unix(1e9, 0), writer: verify.Producer{ID: 7}}
	for p := range int32(partitions) {
		w.ev.Logs = append(w.ev.Logs, verify.Log{Topic: events, Partition: p})
	}
	w.ev.Logs = append(w.ev.Logs, verify.Log{Topic: others}, verify.Log{Topic: letters, Letters: true})
	w.ev.Rules = verify.Rules{Topic: events, Quiet: true, Parked: parks}
	w.ev.State.Topic = state
	for range n {
		w.commit()
	}
	w.publish()
	w.settle()
	w.ev.State.LSO = w.ev.State.HW
	for i := range w.ev.Logs {
		w.ev.Logs[i].LSO = w.ev.Logs[i].HW
	}
	w.see()
	return w
}

// commit adds a transaction to the history.
func (w *world) commit() {
	o := &w.ev.Oracle
	w.lsn += pglogrepl.LSN(16 + w.choose(200))
	tx := verify.Tx{Timeline: 1, XID: 700 + uint32(len(o.Txs)), LSN: w.lsn, First: uint32(len(o.Rows))}
	w.lsn += 8
	tx.EndLSN = w.lsn
	ord := uint32(0)
	for range 1 + w.choose(6) {
		ord += 1 + uint32(w.choose(2))
		key := fmt.Sprintf("key-%d", w.choose(4))
		w.seqs[key]++
		r := verify.Row{
			ID: w.id(), Key: verify.NameOf(key), Tx: uint32(len(o.Txs)), Ord: ord,
			KeySeq: w.seqs[key], Partition: -1, Marked: true, Poison: w.choose(8) == 1,
		}
		if r.Poison {
			r.Reason = verify.NameOf([]string{"too_large", "refused"}[w.choose(2)])
		}
		r.Hash = verify.HashOf(r.ID[:])
		switch w.choose(8) {
		case 1:
			r.Topic = verify.NameOf(others)
		case 2:
			r.Partition = int32(w.choose(partitions))
		}
		o.Rows = append(o.Rows, r)
	}
	o.Txs = append(o.Txs, tx)
}

// publish runs sessions over the history.
func (w *world) publish() {
	w.last = checkpoint.Checkpoint{
		Seq: 1, SessionID: "init", SessionNo: 1, Pos: checkpoint.Position{Timeline: 1, EndLSN: 0x1000},
		Source: checkpoint.Source{SystemID: "1", Database: "d", Slot: "s"},
	}
	w.checkpoint(w.last, verify.Commit)
	w.begin()
	o := &w.ev.Oracle
	for row := 0; row < len(o.Rows); {
		if w.last.Pos.Ordinal == 0 && w.choose(3) == 1 {
			row += w.recover(row)
			continue
		}
		// A group ends with its transaction, or is cut.
		n := min(1+w.choose(12), len(o.Rows)-row)
		group := o.Rows[row : row+n]
		w.work()
		c := w.next()
		c.Rows, c.RowsTotal = uint64(n), c.RowsTotal+uint64(n)
		end := &group[n-1]
		tx := &o.Txs[end.Tx]
		c.Pos.CommitLSN = tx.LSN
		if row+n == len(o.Rows) || o.Rows[row+n].Tx != end.Tx {
			c.Pos.EndLSN, c.Pos.Ordinal = tx.EndLSN, 0
		} else {
			c.Pos.Ordinal = uint64(end.Ord)
			if end.Tx > 0 {
				c.Pos.EndLSN = max(c.Pos.EndLSN, o.Txs[end.Tx-1].EndLSN)
			}
		}
		if w.choose(5) == 1 {
			w.write(row, n, c, verify.Abort)
			w.begin()
			continue
		}
		w.write(row, n, c, verify.Commit)
		w.last = c
		row += n
		if w.choose(4) == 1 && c.Pos.Ordinal == 0 {
			w.idle()
		}
		w.sample()
	}
}

// next is the checkpoint that follows, but for its position and counts.
func (w *world) next() checkpoint.Checkpoint {
	c := w.last
	c.Seq, c.SessionID, c.SessionNo = c.Seq+1, fmt.Sprint("session-", w.session), uint64(w.session)+1
	return c
}

func (w *world) begin() {
	w.session++
	w.writer.Epoch++
	w.ev.Checkpoints = append(w.ev.Checkpoints, verify.CheckpointRecord{
		Offset: w.topic, Kind: checkpoint.Session, Session: fmt.Sprint("session-", w.session), Fate: verify.Commit, Committed: true, Producer: w.writer,
	})
	w.topic += 2
}

// idle is a heartbeat: a checkpoint without rows.
func (w *world) idle() {
	c := w.last
	c.Seq, c.Rows = c.Seq+1, 0
	c.Pos.EndLSN++
	w.writer.Epoch++
	w.checkpoint(c, verify.Commit)
	w.last = c
}

func (w *world) checkpoint(c checkpoint.Checkpoint, fate verify.Fate) {
	w.ev.Checkpoints = append(w.ev.Checkpoints, verify.CheckpointRecord{
		Offset: w.topic, Kind: checkpoint.Lane, Session: c.SessionID, Checkpoint: c, Fate: fate, Committed: fate == verify.Commit, Producer: w.writer,
	})
	w.topic += 2
}

// write is one Kafka transaction.
func (w *world) write(row, n int, c checkpoint.Checkpoint, fate verify.Fate) {
	w.writer.Epoch++ // transaction.version=2
	tx := w.transaction(w.writer, fate)
	before := w.desk.clone()
	w.release(tx, c.Seq)
	for i := row; i < row+n; i++ {
		r := &w.ev.Oracle.Rows[i]
		log, rec := w.place(r), w.record(i)
		rec.Ckpt = c.Seq
		blocked := w.desk.parks && len(w.desk.queues[r.Key.String()]) > 0
		switch {
		case blocked && (!r.Poison || r.Reason.String() == "refused"): // which nobody knows yet
			log, rec.Reason = letterLog, verify.NameOf("parked")
		case r.Poison:
			log, rec.Reason = letterLog, r.Reason
		}
		offset := tx.write(log, rec)
		if log == letterLog {
			w.desk.take(i, offset, rec.Reason.String() == "parked", r.Key.String())
		}
	}
	if fate == verify.Abort {
		w.desk = before
	}
	tx.end()
	w.checkpoint(c, fate)
}

// record is a row as a record, not yet written.
func (w *world) record(i int) verify.Record {
	r, at := &w.ev.Oracle.Rows[i], w.ev.Oracle.At(i)
	return verify.Record{
		ID: r.ID, Hash: r.Hash, Key: r.Key, LSN: at.LSN, Ord: r.Ord, Timeline: at.Timeline, KeySeq: r.KeySeq,
		Seq: uint32(i) - w.ev.Oracle.Txs[r.Tx].First + 1,
	}
}

func (w *world) place(r *verify.Row) int {
	switch {
	case r.Topic.String() == others:
		// Its only partition: whatever the row asks for.
		r.Partition = -1
		return 3
	case r.Partition >= 0:
		return int(r.Partition)
	}
	return w.byKey.Partition(&kgo.Record{Key: []byte(r.Key.String())}, partitions)
}

func (w *world) sample() {
	w.now = w.now.Add(50 * time.Millisecond)
	s := verify.Sample{At: w.now, Seq: w.last.Seq, End: w.last.Pos.EndLSN, LSO: w.topic, HW: w.topic}
	if n := len(w.ev.Samples); n > 0 {
		s.Epoch, s.Confirmed = w.ev.Samples[n-1].Epoch, w.ev.Samples[n-1].Confirmed
	}
	switch w.choose(6) {
	case 0: // not confirmed yet
	case 1: // Postgres crashed
		s.Epoch++
		s.Confirmed = max(s.Confirmed, 0x10) - 0x10
	default:
		s.Confirmed = s.End
	}
	w.ev.Samples = append(w.ev.Samples, s)
}

// see lets a live reader see a prefix of each partition.
func (w *world) see() {
	for i := range w.ev.Logs {
		l := &w.ev.Logs[i]
		s := verify.Sighting{Topic: l.Topic, Partition: l.Partition}
		shown := slices.DeleteFunc(slices.Clone(l.Records), func(r verify.Record) bool { return !r.Committed })
		for _, r := range shown[:w.choose(len(shown)+1)] {
			s.Offsets = append(s.Offsets, r.Offset)
			s.IDs = append(s.IDs, verify.Folded(r.ID))
		}
		w.ev.Sightings = append(w.ev.Sightings, s)
	}
}
