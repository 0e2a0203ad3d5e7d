package recovery_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/recovery"
	"github.com/holdwall/outbox-relay/replication"
)

// healthy is a server and a topic with which nothing is wrong.
func healthy() *recovery.Survey {
	return &recovery.Survey{
		Server: replication.State{
			SystemID: "7", Timeline: 2, Switches: []replication.Switch{{Timeline: 1, At: 0x500}}, FlushLSN: 0x2000, Database: "shop",
			Slot: replication.Slot{Name: "slot", Plugin: "pgoutput", Database: "shop", ConfirmedLSN: 0x900, RestartLSN: 0x800, WALStatus: "reserved"},
		},
		State: checkpoint.State{Last: &checkpoint.Checkpoint{
			Seq: 9, SessionID: "s", Pos: checkpoint.Position{Timeline: 2, EndLSN: 0x1000, CommitLSN: 0xF00}, Time: time.Unix(1e9, 0),
			Source: checkpoint.Source{SystemID: "7", Database: "shop", Slot: "slot", ClusterID: "c", TopicID: "t"},
		}},
		ClusterID: "c", TopicID: "t",
	}
}

// Each situation that halts a relay at its start has its findings, the words that
// a person has to repeat, and its plan for the slot; or it is refused.
func TestDiagnose(t *testing.T) {
	t.Parallel()
	last := func(change func(*checkpoint.Checkpoint)) func(*recovery.Survey) {
		return func(s *recovery.Survey) { change(s.State.Last) }
	}
	for name, c := range map[string]struct {
		change func(*recovery.Survey)
		flags  recovery.Config
		codes  string
		needs  string
		slot   recovery.SlotPlan
		refuse *fault.Code
	}{
		"sound":           {change: func(*recovery.Survey) {}, slot: recovery.KeepSlot},
		"sound, and held": {change: func(s *recovery.Survey) { s.Server.Slot.Active = true }, slot: recovery.KeepSlot},
		"slot missing":    {change: func(s *recovery.Survey) { s.Server.Slot = replication.Slot{} }, codes: "OBX-3101", slot: recovery.CreateSlot},
		"slot lost":       {change: func(s *recovery.Survey) { s.Server.Slot.WALStatus = "lost" }, codes: "OBX-3103", slot: recovery.ReplaceSlot},
		"slot idle":       {change: func(s *recovery.Survey) { s.Server.Slot.Invalidation = "idle_timeout" }, codes: "OBX-3103", slot: recovery.ReplaceSlot},
		"gap":             {change: func(s *recovery.Survey) { s.Server.Slot.ConfirmedLSN = 0x1100 }, codes: "OBX-4008", slot: recovery.KeepSlot},
		"gap, and held":   {change: func(s *recovery.Survey) { s.Server.Slot.ConfirmedLSN, s.Server.Slot.Active = 0x1100, true }, refuse: fault.SlotHeld},
		"no checkpoint":   {change: func(s *recovery.Survey) { s.State.Last = nil }, codes: "OBX-4002", needs: "checkpoint=slot@0/900", slot: recovery.KeepSlot},
		"neither":         {change: func(s *recovery.Survey) { s.State.Last, s.Server.Slot = nil, replication.Slot{} }, refuse: fault.NotInitialised},
		"half an init": {change: func(s *recovery.Survey) {
			s.State.Last, s.State.Intent = nil, &checkpoint.Intent{Source: checkpoint.Source{SystemID: "7", Slot: "slot"}}
		}, refuse: fault.AlreadyHalf},
		"another topic":  {change: func(s *recovery.Survey) { s.TopicID = "u" }, codes: "OBX-4003", needs: "topic=c/t:c/u", slot: recovery.KeepSlot},
		"forked":         {change: func(s *recovery.Survey) { s.Fork = fault.New(fault.CheckpointForked, "twice") }, codes: "OBX-4003", needs: "history=9@2:0/1000", slot: recovery.KeepSlot},
		"another system": {change: func(s *recovery.Survey) { s.Server.SystemID = "8" }, codes: "OBX-4005", needs: "identity=7:8@0/1000", slot: recovery.KeepSlot},
		"old primary":    {change: last(func(c *checkpoint.Checkpoint) { c.Pos.Timeline = 3 }), refuse: fault.OldPrimary},
		"another name":   {change: last(func(c *checkpoint.Checkpoint) { c.Source.Slot = "other" }), refuse: fault.NameChanged},
		"adopted": {change: last(func(c *checkpoint.Checkpoint) {
			c.Pos = checkpoint.Position{Timeline: 1, EndLSN: 0x500, CommitLSN: 0x400}
		}), codes: "OBX-4008", slot: recovery.KeepSlot},
		"diverged":          {change: last(func(c *checkpoint.Checkpoint) { c.Pos.Timeline = 1 }), codes: "OBX-4007", needs: "diverged=0/500:0/1000", slot: recovery.KeepSlot},
		"of no ancestor":    {change: func(s *recovery.Survey) { s.State.Last.Pos.Timeline, s.Server.Switches = 1, nil }, codes: "OBX-4007", needs: "diverged=0/0:0/1000", slot: recovery.ReplaceSlot},
		"diverged, no slot": {change: func(s *recovery.Survey) { s.State.Last.Pos.Timeline, s.Server.Slot = 1, replication.Slot{} }, codes: "OBX-3101 OBX-4007", needs: "diverged=0/500:0/1000", slot: recovery.CreateSlot},
		"backwards":         {change: func(s *recovery.Survey) { s.Server.FlushLSN = 0xA00 }, codes: "OBX-4009", needs: "backwards=0/1000", slot: recovery.ReplaceSlot},
		"begun before": {change: last(func(c *checkpoint.Checkpoint) {
			c.Recovery = &checkpoint.Recovery{ID: "r", Code: "OBX-4007", From: checkpoint.Position{Timeline: 1, EndLSN: 0x1000}}
		}), codes: "OBX-4300 OBX-4007", slot: recovery.KeepSlot},
		"a slot anew":       {change: func(*recovery.Survey) {}, flags: recovery.Config{NewSlot: true}, codes: "OBX-4010", needs: "new-slot=slot@0/900", slot: recovery.ReplaceSlot},
		"missing rows":      {change: func(*recovery.Survey) {}, flags: recovery.Config{Missing: true}, codes: "OBX-4100", slot: recovery.KeepSlot},
		"another plugin":    {change: func(s *recovery.Survey) { s.Server.Slot.Plugin = "wal2json" }, flags: recovery.Config{Missing: true}, refuse: fault.SlotShape},
		"words for nothing": {change: func(*recovery.Survey) {}, flags: recovery.Config{Accept: []string{"diverged=0/1:0/2"}}, refuse: fault.RecoveryMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := healthy()
			c.change(s)
			cfg := c.flags
			cfg.Source.Slot, cfg.Name, cfg.Checkpoint = "slot", "orders", "ckpt"
			d, err := recovery.Diagnose(cfg, s)
			if c.refuse != nil {
				if !fault.Has(err, c.refuse) {
					t.Fatalf("got %v, want %s", err, c.refuse.Name)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var codes, needs []string
			for _, f := range d.Findings {
				codes = append(codes, f.Code.ID)
			}
			for _, n := range d.Needs {
				needs = append(needs, n.Words)
			}
			got := []string{strings.Join(codes, " "), strings.Join(needs, " "), string(d.Slot)}
			if diff := cmp.Diff([]string{c.codes, c.needs, string(c.slot)}, got); diff != "" {
				t.Error(diff)
			}
			// The words, once repeated, are what was asked for; without them nothing is.
			cfg.Accept = needs
			if d, err = recovery.Diagnose(cfg, s); err != nil || d.Accepted(needs) != nil {
				t.Errorf("repeated: %v", err)
			}
			if len(needs) > 0 && !fault.Has(d.Accepted(slices.Clone(needs)[1:]), fault.RecoveryUndecided) {
				t.Error("nothing was decided, and it goes on")
			}
		})
	}
}
