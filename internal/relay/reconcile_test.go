package relay

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// The rows of the table in docs/design.md that are decided here. Of the others,
// 7 to 9 (slot missing, lost, of another shape) are seen before there is a
// session (package replication), 14 and the contradictions inside the topic of
// 3 when the checkpoint is read (package checkpoint).
func TestReconcile(t *testing.T) {
	// The last transaction committed at 0/480 and ended at 0/500; a heartbeat
	// has moved the checkpoint to 0/600; the slot is right there; the WAL ends
	// at 0/900.
	complete := checkpoint.Position{Timeline: 2, CommitLSN: 0x480, EndLSN: 0x600}
	// Or: of the transaction that commits at 0/780, 40 changes are published.
	cut := checkpoint.Position{Timeline: 2, CommitLSN: 0x780, EndLSN: 0x600, Ordinal: 40}

	type situation struct {
		c      *checkpoint.Checkpoint
		st     replication.State
		sess   sink.Session
		accept *Gap
	}
	normal := func() situation {
		return situation{
			c: &checkpoint.Checkpoint{
				Seq: 9, SessionID: "s", Pos: complete, Source: identity, OptionsHash: "h",
				LastTx: checkpoint.Transaction{CommitLSN: 0x480, EndLSN: 0x500, XID: 77},
			},
			st: replication.State{
				SystemID: "7", Timeline: 2, Database: "db", FlushLSN: 0x900, OptionsHash: "h",
				Switches: []replication.Switch{{Timeline: 1, At: 0x200}},
				Slot:     replication.Slot{Name: "slot", ConfirmedLSN: 0x600},
			},
			sess: sink.Session{ClusterID: "c", TopicID: "t"},
		}
	}
	cutAt := func(s *situation) {
		s.c.Pos = cut
		s.c.LastTx = checkpoint.Transaction{CommitLSN: 0x780, XID: 78}
	}
	promoted := func(at pglogrepl.LSN) func(*situation) {
		return func(s *situation) {
			s.st.Timeline = 3
			s.st.Switches = append(s.st.Switches, replication.Switch{Timeline: 2, At: at})
		}
	}
	witness := replication.Resume{Floor: 0x600, WitnessLSN: 0x480, WitnessXID: 77}
	cutResume := replication.Resume{Floor: 0x600, CutLSN: 0x780, CutOrd: 40, WitnessLSN: 0x780, WitnessXID: 78}

	for _, tc := range []struct {
		row, name string
		change    []func(*situation)
		code      *fault.Code // nil: sound
		says      string      // in the error
		resume    replication.Resume
		pos       checkpoint.Position // of the base
		override  string
	}{
		{row: "1", name: "init died before the first checkpoint", change: []func(*situation){func(s *situation) {
			s.c, s.sess.State.Intent = nil, &checkpoint.Intent{Time: time.Unix(0, 0)}
		}}, code: fault.AlreadyHalf, says: "1970-01-01"},
		{row: "2", name: "no checkpoint", change: []func(*situation){func(s *situation) { s.c = nil }}, code: fault.CheckpointMissing, says: "0/600"},

		{row: "3", name: "another Kafka cluster", change: []func(*situation){func(s *situation) { s.sess.ClusterID = "d" }}, code: fault.CheckpointForked, says: "cluster d"},
		{row: "3", name: "the topic was made anew", change: []func(*situation){func(s *situation) { s.sess.TopicID = "u" }}, code: fault.CheckpointForked, says: "topic u"},

		{row: "4", name: "another database cluster", change: []func(*situation){func(s *situation) { s.st.SystemID = "8" }}, code: fault.IdentityChanged, says: "system 8"},
		{row: "4", name: "another database", change: []func(*situation){func(s *situation) { s.st.Database = "db2" }}, code: fault.NameChanged, says: "db2"},
		{row: "4", name: "another slot", change: []func(*situation){func(s *situation) { s.st.Slot.Name = "slot2" }}, code: fault.NameChanged, says: "slot2"},
		{row: "4", name: "identity before positions", change: []func(*situation){func(s *situation) {
			s.st.SystemID, s.st.Timeline, s.st.Slot.ConfirmedLSN = "8", 1, 0x900
		}}, code: fault.IdentityChanged},

		{row: "5", name: "the old primary", change: []func(*situation){func(s *situation) { s.st.Timeline = 1 }}, code: fault.OldPrimary, says: "timeline 1"},
		{row: "5", name: "timeline before positions", change: []func(*situation){func(s *situation) {
			s.st.Timeline, s.st.FlushLSN = 1, 0x500
		}}, code: fault.OldPrimary},

		{
			row: "6", name: "failover behind the checkpoint", change: []func(*situation){promoted(0x700)},
			resume: replication.Resume{Floor: 0x600}, pos: checkpoint.Position{Timeline: 3, CommitLSN: 0x480, EndLSN: 0x600},
		},
		{
			row: "6", name: "failover exactly at the checkpoint", change: []func(*situation){promoted(0x600)},
			resume: replication.Resume{Floor: 0x600}, pos: checkpoint.Position{Timeline: 3, CommitLSN: 0x480, EndLSN: 0x600},
		},
		{row: "6", name: "failover before the checkpoint", change: []func(*situation){promoted(0x5F8)}, code: fault.Diverged, says: "(0/5F8, 0/600]"},
		{row: "6", name: "two failovers, the first behind the checkpoint", change: []func(*situation){promoted(0x700), func(s *situation) {
			s.st.Timeline = 4
			s.st.Switches = append(s.st.Switches, replication.Switch{Timeline: 3, At: 0x100000})
		}}, resume: replication.Resume{Floor: 0x600}, pos: checkpoint.Position{Timeline: 4, CommitLSN: 0x480, EndLSN: 0x600}},
		{row: "6", name: "not a descendant", change: []func(*situation){func(s *situation) { s.st.Timeline = 3 }}, code: fault.Diverged, says: "does not descend"},
		{
			row: "6", name: "failover behind a cut transaction", change: []func(*situation){cutAt, promoted(0x790)},
			resume: cutResume, pos: checkpoint.Position{Timeline: 3, CommitLSN: 0x780, EndLSN: 0x600, Ordinal: 40},
		},
		{row: "6", name: "failover lost the commit of a cut transaction", change: []func(*situation){cutAt, promoted(0x780)}, code: fault.Diverged},

		{row: "10", name: "gap", change: []func(*situation){func(s *situation) { s.st.Slot.ConfirmedLSN = 0x700 }}, code: fault.Gap, says: "256 bytes ahead"},
		{row: "10", name: "gap accepted", change: []func(*situation){func(s *situation) {
			s.st.Slot.ConfirmedLSN, s.accept = 0x700, &Gap{Checkpoint: 0x600, Slot: 0x700}
		}}, resume: replication.Resume{Floor: 0x700}, pos: checkpoint.Position{Timeline: 2, CommitLSN: 0x480, EndLSN: 0x700}, override: "accept-gap 0/600:0/700"},
		{row: "10", name: "gap accepted with another slot position", change: []func(*situation){func(s *situation) {
			s.st.Slot.ConfirmedLSN, s.accept = 0x700, &Gap{Checkpoint: 0x600, Slot: 0x701}
		}}, code: fault.GapMismatch, says: "the gap is 0/600:0/700"},
		{row: "10", name: "gap accepted with another checkpoint", change: []func(*situation){func(s *situation) {
			s.st.Slot.ConfirmedLSN, s.accept = 0x700, &Gap{Checkpoint: 0x500, Slot: 0x700}
		}}, code: fault.GapMismatch},
		{row: "10", name: "accepted, but there is no gap", change: []func(*situation){func(s *situation) {
			s.accept = &Gap{Checkpoint: 0x600, Slot: 0x700}
		}}, resume: replication.Resume{Floor: 0x600}, pos: complete},
		{
			row: "10", name: "gap accepted before a cut transaction, which comes again", change: []func(*situation){cutAt, func(s *situation) {
				s.st.Slot.ConfirmedLSN, s.accept = 0x700, &Gap{Checkpoint: 0x600, Slot: 0x700}
			}}, resume: replication.Resume{Floor: 0x700, CutLSN: 0x780, CutOrd: 40, WitnessLSN: 0x780, WitnessXID: 78},
			pos: checkpoint.Position{Timeline: 2, CommitLSN: 0x780, EndLSN: 0x700, Ordinal: 40}, override: "accept-gap 0/600:0/700",
		},
		{row: "10", name: "gap accepted over the rest of a cut transaction", change: []func(*situation){cutAt, func(s *situation) {
			s.st.Slot.ConfirmedLSN, s.accept = 0x800, &Gap{Checkpoint: 0x600, Slot: 0x800}
		}}, resume: replication.Resume{Floor: 0x800}, pos: checkpoint.Position{Timeline: 2, CommitLSN: 0x780, EndLSN: 0x800}, override: "accept-gap 0/600:0/800"},

		{row: "11", name: "the WAL ends before the checkpoint", change: []func(*situation){func(s *situation) {
			s.st.FlushLSN, s.st.Slot.ConfirmedLSN = 0x5FF, 0x500
		}}, code: fault.LSNBackwards, says: "0/5FF"},
		{row: "11", name: "the WAL ends before the commit of a cut transaction", change: []func(*situation){cutAt, func(s *situation) { s.st.FlushLSN = 0x780 }}, code: fault.LSNBackwards},
		{
			row: "11", name: "the WAL ends at the checkpoint", change: []func(*situation){func(s *situation) { s.st.FlushLSN = 0x600 }},
			resume: replication.Resume{Floor: 0x600}, pos: complete,
		},

		{row: "12", name: "slot at the checkpoint", resume: replication.Resume{Floor: 0x600}, pos: complete},
		{row: "12", name: "slot behind the last transaction", change: []func(*situation){func(s *situation) { s.st.Slot.ConfirmedLSN = 0x300 }}, resume: witness, pos: complete},
		{row: "12", name: "slot at the commit record of the last transaction", change: []func(*situation){func(s *situation) { s.st.Slot.ConfirmedLSN = 0x480 }}, resume: witness, pos: complete},
		{
			row: "12", name: "slot past the start of that commit record", change: []func(*situation){func(s *situation) { s.st.Slot.ConfirmedLSN = 0x481 }},
			resume: replication.Resume{Floor: 0x600}, pos: complete,
		},
		{row: "12", name: "no transaction yet", change: []func(*situation){func(s *situation) {
			s.c.LastTx, s.c.Pos.CommitLSN, s.st.Slot.ConfirmedLSN = checkpoint.Transaction{}, 0, 0x300
		}}, resume: replication.Resume{Floor: 0x600}, pos: checkpoint.Position{Timeline: 2, EndLSN: 0x600}},
		{row: "12", name: "inside a cut transaction", change: []func(*situation){cutAt}, resume: cutResume, pos: cut},
		{
			row: "12", name: "options changed between transactions", change: []func(*situation){func(s *situation) { s.st.OptionsHash = "i" }},
			resume: replication.Resume{Floor: 0x600}, pos: complete,
		},
		{
			row: "12", name: "options changed inside a cut transaction", change: []func(*situation){cutAt, func(s *situation) { s.st.OptionsHash = "i" }},
			code: fault.CutChanged, says: "change 40",
		},
		{row: "12", name: "options changed inside a cut transaction with a gap before it", change: []func(*situation){cutAt, func(s *situation) {
			s.st.OptionsHash = "i"
			s.st.Slot.ConfirmedLSN, s.accept = 0x700, &Gap{Checkpoint: 0x600, Slot: 0x700}
		}}, code: fault.CutChanged},
	} {
		t.Run(tc.row+" "+tc.name, func(t *testing.T) {
			s := normal()
			for _, change := range tc.change {
				change(&s)
			}
			s.sess.State.Last = s.c
			var before checkpoint.Checkpoint
			if s.c != nil {
				before = *s.c
			}
			got, err := reconcile(s.st, s.sess, s.accept)
			if tc.code != nil {
				if !fault.Has(err, tc.code) {
					t.Fatalf("got %v, want %s", err, tc.code.ID)
				}
				if tc.code.Class != fault.Halt {
					t.Errorf("%s is of class %s", tc.code.ID, tc.code.Class)
				}
				if !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%q does not say %q", err, tc.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.resume, got.resume); diff != "" {
				t.Errorf("resume (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.pos, got.base.Pos); diff != "" {
				t.Errorf("position (-want +got):\n%s", diff)
			}
			if got.override != tc.override {
				t.Errorf("override %q, want %q", got.override, tc.override)
			}
			if got.base.Seq != 9 {
				t.Errorf("the base is checkpoint %d", got.base.Seq)
			}
			if _, err := got.base.Record("topic", "name"); err != nil {
				t.Errorf("the base is no checkpoint: %v", err)
			}
			if diff := cmp.Diff(before, *s.c); diff != "" {
				t.Errorf("what was read from Kafka was changed (-before +after):\n%s", diff)
			}
		})
	}
}

// The fix of a gap's error is the command that accepts it.
func TestGapErrorPrintsTheOverride(t *testing.T) {
	c := checkpoint.Checkpoint{Seq: 1, SessionID: "s", Source: identity, Pos: checkpoint.Position{Timeline: 1, EndLSN: 0x10}}
	st := replication.State{SystemID: "7", Timeline: 1, Database: "db", FlushLSN: 0x1_0000_0030, Slot: replication.Slot{Name: "slot", ConfirmedLSN: 0x1_0000_0020}}
	_, err := reconcile(st, sink.Session{ClusterID: "c", TopicID: "t", State: checkpoint.State{Last: &c}}, nil)
	const want = "serve --accept-gap 0/10:1/20 "
	if fix := fault.As(err).Remedy(); !strings.Contains(fix, want) {
		t.Fatalf("fix %q does not hold %q", fix, want)
	}
	gap, err := ParseGap("0/10:1/20")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Gap{Checkpoint: 0x10, Slot: 0x1_0000_0020}, gap); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if gap.String() != "0/10:1/20" {
		t.Errorf("printed as %s", gap)
	}
}

func TestParseGapRefuses(t *testing.T) {
	for _, s := range []string{"", ":", "0/10", "0/10:", ":0/20", "0/10-0/20", "x:0/20", "0/10:y", "0/10:0/20:0/30"} {
		if g, err := ParseGap(s); err == nil {
			t.Errorf("%q is read as %s", s, g)
		}
	}
}
