package verify

import (
	"fmt"
	"sort"

	"github.com/holdwall/outbox-relay/checkpoint"
)

// reach is how many neighbours of a violation are shown on either side.
const reach = 10

// window prints the neighbours of index i and points at it.
func window(i, n int, line func(int) string) []string {
	var lines []string
	for k := max(0, i-reach); k < min(n, i+reach+1); k++ {
		mark := "  "
		if k == i {
			mark = "> "
		}
		lines = append(lines, mark+line(k))
	}
	return lines
}

func place(ev *Evidence, r ref) string {
	l := &ev.Logs[r.log]
	return fmt.Sprintf("%s/%d@%d", l.Topic, l.Partition, l.Records[r.rec].Offset)
}

func aroundRecord(ev *Evidence, log, rec int) []string {
	l := &ev.Logs[log]
	return window(rec, len(l.Records), func(k int) string {
		r := &l.Records[k]
		shown := "hidden"
		if r.Committed {
			shown = "shown"
		}
		return fmt.Sprintf("%s/%d@%-6d %s %s key=%q key_seq=%d ckpt=%d producer=%d/%d %s, %s",
			l.Topic, l.Partition, r.Offset, r.At(), r.ID, r.Key, r.KeySeq, r.Ckpt, r.Producer.ID, r.Producer.Epoch, r.Fate, shown)
	})
}

// aroundOffset is aroundRecord for an offset that may hold none.
func aroundOffset(ev *Evidence, log int, offset int64) []string {
	records := ev.Logs[log].Records
	i := sort.Search(len(records), func(k int) bool { return records[k].Offset >= offset })
	return aroundRecord(ev, log, min(i, len(records)-1))
}

func aroundRow(ev *Evidence, row int) []string {
	o := &ev.Oracle
	return window(row, len(o.Rows), func(k int) string {
		r := &o.Rows[k]
		return fmt.Sprintf("row %s %s xid=%d key=%q key_seq=%d topic=%q poison=%t", o.At(k), r.ID, o.Txs[r.Tx].XID, r.Key, r.KeySeq, r.Topic, r.Poison)
	})
}

func aroundCheckpoint(ev *Evidence, lanes []int, n int) []string {
	return window(n, len(lanes), func(k int) string { return checkpointLine(&ev.Checkpoints[lanes[k]]) })
}

func aroundTopic(ev *Evidence, i int) []string {
	return window(i, len(ev.Checkpoints), func(k int) string { return checkpointLine(&ev.Checkpoints[k]) })
}

func checkpointLine(r *CheckpointRecord) string {
	if r.Kind != checkpoint.Lane {
		kind := map[checkpoint.Kind]string{checkpoint.Session: "barrier", checkpoint.Init: "intent"}[r.Kind]
		return fmt.Sprintf("@%-6d %s session=%s committed=%t", r.Offset, kind, r.Session, r.Committed)
	}
	c := &r.Checkpoint
	return fmt.Sprintf("@%-6d checkpoint %d at %s commit=%s rows=%d session=%s no=%d producer=%d/%d committed=%t",
		r.Offset, c.Seq, c.Pos, c.Pos.CommitLSN, c.Rows, c.SessionID, c.SessionNo, r.Producer.ID, r.Producer.Epoch, r.Committed)
}

func aroundSample(ev *Evidence, i int) []string {
	return window(i, len(ev.Samples), func(k int) string {
		s := &ev.Samples[k]
		return fmt.Sprintf("%s epoch=%d confirmed=%s checkpoint=%d end=%s lso=%d hw=%d",
			s.At.UTC().Format("15:04:05.000"), s.Epoch, s.Confirmed, s.Seq, s.End, s.LSO, s.HW)
	})
}

func (m *LetterMark) at(ev *Evidence) string { return fmt.Sprintf("%s@%d", ev.State.Topic, m.Offset) }

func aroundMark(ev *Evidence, i int) []string {
	return window(i, len(ev.State.Marks), func(k int) string {
		m := &ev.State.Marks[k]
		return fmt.Sprintf("%s %s group=%q %s letter=%s topic=%q producer=%d/%d %s, shown=%t",
			m.at(ev), m.ID, m.Group, m.Action, m.Letter, m.Topic, m.Producer.ID, m.Producer.Epoch, m.Fate, m.Committed)
	})
}
