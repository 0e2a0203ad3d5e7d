package verify_test

import (
	"slices"
	"testing"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/verify"
)

const beforeFirst = "rows from before the first checkpoint are not owed"

// TestLawful: what looks odd and is right.
func TestLawful(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*testing.T, *verify.Evidence)
	}{
		{beforeFirst, func(t *testing.T, ev *verify.Evidence) {
			start := &ev.Checkpoints[0]
			if start.Checkpoint.Seq != 1 {
				t.Fatal("the world does not begin with its first checkpoint")
			}
			// The first transactions and all that came of them go.
			tx := ev.Oracle.Txs[3]
			start.Checkpoint.Pos.EndLSN = tx.EndLSN
			forget(ev, func(r *verify.Record) bool { return r.LSN <= tx.LSN })
			early := map[uint64]uint64{}
			for i := range ev.Logs {
				for _, r := range ev.Logs[i].Records {
					if r.Committed {
						early[r.Ckpt]++
					}
				}
			}
			total := uint64(0)
			ev.Checkpoints = slices.DeleteFunc(ev.Checkpoints, func(c verify.CheckpointRecord) bool {
				return c.Kind == checkpoint.Lane && c.Checkpoint.Seq > 1 && c.Checkpoint.Pos.EndLSN <= tx.EndLSN && early[c.Checkpoint.Seq] == 0
			})
			seq := uint64(1)
			renumber := map[uint64]uint64{}
			for i := range ev.Checkpoints {
				c := &ev.Checkpoints[i]
				if c.Kind != checkpoint.Lane || !c.Committed || c.Checkpoint.Seq == 1 {
					continue
				}
				seq++
				renumber[c.Checkpoint.Seq] = seq
				c.Checkpoint.Rows = early[c.Checkpoint.Seq]
				total += c.Checkpoint.Rows
				c.Checkpoint.Seq, c.Checkpoint.RowsTotal = seq, total
				c.Checkpoint.Pos.EndLSN = max(c.Checkpoint.Pos.EndLSN, tx.EndLSN)
			}
			for i := range ev.Logs {
				for j := range ev.Logs[i].Records {
					r := &ev.Logs[i].Records[j]
					r.Ckpt = renumber[r.Ckpt]
				}
			}
			ev.Samples = nil
		}},
		{"one epoch for a whole session", func(_ *testing.T, ev *verify.Evidence) {
			// As below transaction.version=2: attempts can only be told apart
			// by their numbers.
			one := verify.Producer{ID: 7}
			for i := range ev.Logs {
				for j := range ev.Logs[i].Records {
					ev.Logs[i].Records[j].Producer = one
				}
			}
			for i := range ev.Checkpoints {
				ev.Checkpoints[i].Producer = one
			}
			for i := range ev.State.Marks {
				ev.State.Marks[i].Producer = one
			}
		}},
		{"a letter was replayed to another topic", func(t *testing.T, ev *verify.Evidence) {
			if ev.Rules.Parked {
				return // others may wait behind it
			}
			// The redirect is somebody's decision, which the evidence has to name.
			i := slices.IndexFunc(ev.Logs[letterLog].Records, func(r verify.Record) bool { return r.Committed && !marked(ev, r.ID) })
			if i < 0 {
				t.Fatal("no letter is open")
			}
			replay(ev, ev.Logs[letterLog].Records[i], "redirected")
			ev.Rules.Redirects = []string{"redirected"}
		}},
		{"a consumer's letters, handled twice", func(_ *testing.T, ev *verify.Evidence) {
			for _, topic := range []string{events, "group.retry"} {
				again := event0(ev)
				again.Group, again.Reason = verify.NameOf("group"), verify.NameOf("handler")
				again.Fate = verify.NoTransaction
				appendTo(ev, letters, again)
				replay(ev, again, topic)
			}
		}},
		{"marks were compacted", func(_ *testing.T, ev *verify.Evidence) {
			again := event0(ev)
			again.Group = verify.NameOf("group")
			appendTo(ev, letters, again)
			replay(ev, again, events)
			appendTo(ev, letters, again)
			replay(ev, again, events)
			s := &ev.State
			s.Marks, s.Compacted = slices.Delete(s.Marks, len(s.Marks)-2, len(s.Marks)-1), true
		}},
		{"a NULL payload went out as null", func(_ *testing.T, ev *verify.Evidence) {
			each(ev, 5, func(row *verify.Row, rec *verify.Record) { row.Hash, rec.Hash = 0, verify.HashOf([]byte("null")) })
		}},
		{"a NULL payload went out as a tombstone", func(_ *testing.T, ev *verify.Evidence) {
			each(ev, 5, func(row *verify.Row, rec *verify.Record) { row.Hash, rec.Hash = 0, 0 })
		}},
		{"payloads of somebody else", func(_ *testing.T, ev *verify.Evidence) {
			for i := range ev.Oracle.Rows {
				each(ev, i, func(row *verify.Row, rec *verify.Record) {
					row.KeySeq, row.Marked, row.Poison, rec.KeySeq = 0, false, false, 0
				})
			}
		}},
		{"a failover", func(_ *testing.T, ev *verify.Evidence) {
			// The second half was committed on a new timeline, from lower LSNs.
			half := len(ev.Oracle.Txs) / 2
			from := ev.Oracle.Txs[half].LSN
			for i := half; i < len(ev.Oracle.Txs); i++ {
				ev.Oracle.Txs[i].Timeline = 2
			}
			for i := range ev.Logs {
				for j := range ev.Logs[i].Records {
					if r := &ev.Logs[i].Records[j]; r.LSN >= from {
						r.Timeline = 2
					}
				}
			}
			for i := range ev.Checkpoints {
				if c := &ev.Checkpoints[i]; c.Kind == checkpoint.Lane && c.Checkpoint.Pos.CommitLSN >= from {
					c.Checkpoint.Pos.Timeline = 2
				}
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for seed := range uint64(10) {
				ev := seeded(60, seed)
				if tc.name == beforeFirst {
					ev = makeWorld(60, newRand(seed).IntN, false, false).ev
				}
				tc.change(t, &ev)
				report := verify.Check(ev)
				if err := report.Err(); err != nil {
					t.Fatalf("seed %d:\n%s", seed, report.String())
				}
				if early := tc.name == beforeFirst; early != (report.Counts.Before > 0) {
					t.Errorf("seed %d: %d rows from before the first checkpoint", seed, report.Counts.Before)
				}
			}
		})
	}
}

// forget takes records out of the logs and out of what the live reader saw.
func forget(ev *verify.Evidence, which func(*verify.Record) bool) {
	for i := range ev.Logs {
		ev.Logs[i].Records = slices.DeleteFunc(ev.Logs[i].Records, func(r verify.Record) bool { return which(&r) })
	}
	ev.Sightings = nil
}

// each changes a row together with every record of it.
func each(ev *verify.Evidence, row int, change func(*verify.Row, *verify.Record)) {
	r := &ev.Oracle.Rows[row]
	for i := range ev.Logs {
		for j := range ev.Logs[i].Records {
			if rec := &ev.Logs[i].Records[j]; rec.ID == r.ID {
				change(r, rec)
			}
		}
	}
}

// TestEarlyRowPublished: what lies before the first checkpoint must not be
// published, by a relay that ignores it.
func TestEarlyRowPublished(t *testing.T) {
	ev := seeded(60, 1)
	ev.Checkpoints[0].Checkpoint.Pos.EndLSN = ev.Oracle.Txs[0].EndLSN
	report := verify.Check(ev)
	if report.Counts.Before == 0 || report.Of(verify.P8).Violations == 0 {
		t.Errorf("not noticed:\n%s", report.String())
	}
}

func BenchmarkCheck(b *testing.B) {
	ev := seeded(60_000, 1)
	b.ReportMetric(float64(len(ev.Oracle.Rows)), "rows")
	for b.Loop() {
		report := verify.Check(ev)
		if err := report.Err(); err != nil {
			b.Fatal(err)
		}
	}
}

// event0 is a record that was published.
func event0(ev *verify.Evidence) verify.Record {
	for i := range ev.Logs {
		for _, r := range ev.Logs[i].Records {
			if r.Committed && !r.Replayed && !ev.Logs[i].Letters {
				return r
			}
		}
	}
	return verify.Record{}
}

func marked(ev *verify.Evidence, id verify.ID) bool {
	return slices.ContainsFunc(ev.State.Marks, func(m verify.LetterMark) bool { return m.ID == id && m.Committed })
}

// appendTo writes a record to the end of a topic with one partition, or to the
// first of several, in a transaction of its own.
func appendTo(ev *verify.Evidence, topic string, r verify.Record) int64 {
	i := slices.IndexFunc(ev.Logs, func(l verify.Log) bool { return l.Topic == topic })
	if i < 0 {
		i = len(ev.Logs)
		ev.Logs = append(ev.Logs, verify.Log{Topic: topic})
	}
	l := &ev.Logs[i]
	r.Offset = l.HW
	l.HW, l.LSO = l.HW+2, l.LSO+2
	l.Records = append(l.Records, r)
	return r.Offset
}

// replay replays the newest letter of a record's id and group.
func replay(ev *verify.Evidence, r verify.Record, topic string) {
	l := &ev.Logs[letterLog]
	at := len(l.Records) - 1
	for ; l.Records[at].ID != r.ID || l.Records[at].Group != r.Group || !l.Records[at].Committed; at-- {
	}
	s := &ev.State
	by := verify.Producer{ID: 10, Epoch: int16(len(s.Marks))}
	s.Marks = append(s.Marks, verify.LetterMark{
		Offset: s.HW, ID: r.ID, Group: r.Group, Action: verify.Replayed, Topic: verify.NameOf(topic),
		Letter: verify.Place{Topic: letters, Offset: l.Records[at].Offset}, Producer: by, Fate: verify.Commit, Committed: true,
	})
	s.HW, s.LSO = s.HW+2, s.LSO+2
	r.Replayed, r.ReplayOf, r.Ckpt, r.Producer, r.Fate, r.Reason = true, r.ID, 0, by, verify.Commit, verify.Name{}
	appendTo(ev, topic, r)
}
