package replication_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pglogrepl"
	"pgregory.net/rapid"

	"github.com/holdwall/outbox-relay/replication"
)

// A history is what a server has in its WAL: transactions in commit order.
// It can be sent again from any confirmed position on, as Postgres does it.
type history struct {
	txs []past
}

type past struct {
	commit, end pglogrepl.LSN
	xid         uint32
	changes     [][]byte
	rows        []string // what a reader must see, in order
}

func genHistory(t *rapid.T) history {
	var h history
	at := pglogrepl.LSN(0x100)
	for i := range rapid.IntRange(1, 8).Draw(t, "transactions") {
		// Commit records may touch: the next can start where the last ended.
		tx := past{commit: at + pglogrepl.LSN(rapid.IntRange(0, 3).Draw(t, "gap"))*8, xid: uint32(700 + i)}
		tx.end = tx.commit + 8
		at = tx.end
		n := rapid.OneOf(rapid.IntRange(0, 6), rapid.IntRange(replication.PartRows-2, 2*replication.PartRows+5)).Draw(t, "changes")
		kinds := rapid.SliceOfN(rapid.SampledFrom([]string{"event", "event", "event", "foreign", "other", "update", "delete", "truncate", "alter", "message"}), n, n).Draw(t, "kinds")
		ord := 0
		for _, kind := range kinds {
			if kind != "alter" && kind != "message" {
				ord++
			}
			switch kind {
			case "event":
				id := fmt.Sprintf("%x.%d", uint64(tx.commit), ord)
				tx.rows = append(tx.rows, id)
				tx.changes = append(tx.changes, ev(id))
			case "foreign":
				tx.changes = append(tx.changes, row(foreign, "x", "y"))
			case "other":
				tx.changes = append(tx.changes, row(other, "x"))
			case "update":
				tx.changes = append(tx.changes, change(events))
			case "delete":
				tx.changes = append(tx.changes, remove(other))
			case "truncate":
				tx.changes = append(tx.changes, truncate(events, other))
			case "alter":
				tx.changes = append(tx.changes, describe[0])
			case "message":
				tx.changes = append(tx.changes, []byte("M\x01"))
			}
		}
		h.txs = append(h.txs, tx)
	}
	return h
}

// replay is one session: a server that sends from confirmed on, and a reader
// that resumes at from and dies somewhere. It returns where the reader's last
// checkpoint stands, and the rows that are under it.
func (h history) replay(t *rapid.T, confirmed pglogrepl.LSN, from point) (to point, rows []string) {
	// A consumer commits after any item, and of a part that does not end its
	// transaction after any row.
	left := rapid.OneOf(rapid.IntRange(0, 12), rapid.Just(1<<30)).Draw(t, "items before the end")
	to = from
	resume := replication.Resume{Floor: from.end, WitnessLSN: from.lastCommit, WitnessXID: from.lastXID}
	if from.lastCommit < confirmed {
		resume.WitnessLSN, resume.WitnessXID = 0, 0 // Postgres need not send it
	}
	if from.ord > 0 {
		resume.CutLSN, resume.CutOrd = from.commit, from.ord
	}
	var pending []string // rows of the open transaction, not yet under a checkpoint
	a := replication.NewAssembler("outbox", "events", resume, func(tx *replication.Tx) {
		if left == 0 {
			return
		}
		left--
		if tx.Idle {
			to.end, to.ord = max(to.end, tx.EndLSN), 0
			return
		}
		keep := len(tx.Rows)
		if !tx.Last && left == 0 {
			keep = rapid.IntRange(1, len(tx.Rows)).Draw(t, "rows of the last part")
		}
		for _, r := range tx.Rows[:keep] {
			pending = append(pending, string(r.Values[0]))
		}
		to.lastCommit, to.lastXID, to.commit = tx.CommitLSN, tx.XID, tx.CommitLSN
		if tx.Last {
			to.end, to.ord = max(to.end, tx.EndLSN), 0
		} else {
			to.ord = tx.Rows[keep-1].Ord
		}
		rows, pending = append(rows, pending...), nil
	})
	send := func(err error) {
		if err != nil {
			t.Fatalf("resume at %+v, slot at %s: %v", from, confirmed, err)
		}
	}
	for _, m := range describe {
		send(a.Message(0, m))
	}
	ask := rapid.Bool().Draw(t, "keepalives")
	for _, tx := range h.txs {
		if tx.commit < confirmed {
			continue
		}
		if ask {
			// The server's position while it decodes: up to the commit record.
			send(a.Keepalive(max(confirmed, tx.commit-pglogrepl.LSN(rapid.IntRange(0, 2).Draw(t, "behind"))*8), true))
		}
		// Changes carry LSNs of their own that say nothing: they interleave
		// with other transactions'.
		at := pglogrepl.LSN(rapid.IntRange(1, int(tx.commit)).Draw(t, "change LSN"))
		send(a.Message(at, begin(tx.commit, noon, tx.xid)))
		for i, c := range tx.changes {
			if ask && i == 1 {
				send(a.Keepalive(tx.commit, true))
			}
			send(a.Message(at, c))
		}
		send(a.Message(at, commit(tx.commit, tx.end, noon)))
	}
	return to, rows
}

// point is what a checkpoint holds.
type point struct {
	end, commit pglogrepl.LSN
	ord         uint64
	lastCommit  pglogrepl.LSN
	lastXID     uint32
}

// TestEveryRowExactlyOnce: whatever the history, wherever each session ends
// and however far the slot lags behind the checkpoint, the rows under the
// checkpoints are the rows of the history, each once and in order.
func TestEveryRowExactlyOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := genHistory(t)
		var want, got []string
		for _, tx := range h.txs {
			want = append(want, tx.rows...)
		}
		last := h.txs[len(h.txs)-1].end
		start := point{end: 0x100}
		confirmed := []pglogrepl.LSN{start.end}
		at := start
		for session := 0; at.ord > 0 || at.end < last; session++ {
			if session > 200 {
				t.Skip("too many sessions without progress drawn")
			}
			// The slot may lag: a crash of Postgres takes it back to any
			// position that it was ever told.
			slot := rapid.SampledFrom(confirmed).Draw(t, "slot")
			next, rows := h.replay(t, slot, at)
			if next.end < at.end || next.end == at.end && next.ord < at.ord {
				t.Fatalf("position went back from %+v to %+v", at, next)
			}
			got = append(got, rows...)
			at = next
			confirmed = append(confirmed, at.end)
		}
		for i := range max(len(want), len(got)) {
			if i == len(want) || i == len(got) || want[i] != got[i] {
				t.Fatalf("row %d of %d: history has %q, delivered was %q", i, len(want), want[i:min(i+1, len(want))], got[i:min(i+1, len(got))])
			}
		}
	})
}
