package relay

import (
	"fmt"
	"strings"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// Gap is a loss that a person has accepted: rows between the two positions
// will never be published. Both numbers have to be repeated, so that the
// decision cannot outlive the situation that it was made for.
type Gap struct {
	Checkpoint pglogrepl.LSN
	Slot       pglogrepl.LSN
}

// ParseGap reads C:F exactly as the gap error prints it.
func ParseGap(s string) (Gap, error) {
	before, after, ok := strings.Cut(s, ":")
	if !ok {
		return Gap{}, fmt.Errorf("parse %q: want <checkpoint>:<slot>", s)
	}
	c, err := pglogrepl.ParseLSN(before)
	if err != nil {
		return Gap{}, fmt.Errorf("parse %q: %w", s, err)
	}
	f, err := pglogrepl.ParseLSN(after)
	if err != nil {
		return Gap{}, fmt.Errorf("parse %q: %w", s, err)
	}
	g := Gap{Checkpoint: c, Slot: f}
	if !strings.EqualFold(g.String(), s) { // ParseLSN stops at what it cannot read
		return Gap{}, fmt.Errorf("parse %q: read as %s", s, g)
	}
	return g, nil
}

// String is the form that ParseGap reads.
func (g Gap) String() string { return g.Checkpoint.String() + ":" + g.Slot.String() }

// start is where a session begins: what the source is to drop, and the
// checkpoint that the next one follows.
type start struct {
	resume replication.Resume
	base   checkpoint.Checkpoint
	// override is the audit record to be written at once; empty normally.
	override string
}

// reconcile compares what Kafka knows (C, the checkpoint) with what Postgres
// knows (F, the slot's confirmed position; W, the end of its WAL; T, its
// timeline) and decides where to go on. Whatever is not known to be sound
// halts by name. The order of the checks matters: identity before positions,
// because LSNs of another history mean nothing.
func reconcile(st replication.State, sess sink.Session, accept *Gap) (start, error) {
	if sess.State.Last == nil {
		if sess.State.Intent != nil {
			return start{}, fault.New(fault.AlreadyHalf, "slot %s exists and init was begun at %s, but there is no first checkpoint",
				st.Slot.Name, sess.State.Intent.Time.Format("2006-01-02 15:04:05Z07:00")).WithFix("outbox-relay init, which finishes what it began")
		}
		return start{}, fault.New(fault.CheckpointMissing, "slot %s is at %s and the checkpoint topic holds nothing for it", st.Slot.Name, st.Slot.ConfirmedLSN)
	}
	c := *sess.State.Last
	if c.Recovery != nil {
		return start{}, fault.New(fault.RecoveryUnderWay, "recovery %s for %s was begun at %s; checkpoint %d is inside of it",
			c.Recovery.ID, c.Recovery.Code, c.Recovery.Began.Format("2006-01-02 15:04:05Z07:00"), c.Seq)
	}
	if err := sameSource(c, st, sess); err != nil {
		return start{}, err
	}
	if err := sameHistory(&c, st); err != nil {
		return start{}, err
	}
	override, err := acceptGap(&c, st, accept)
	if err != nil {
		return start{}, err
	}
	f, w := st.Slot.ConfirmedLSN, st.FlushLSN
	switch {
	case published(c.Pos) > w:
		return start{}, fault.New(fault.LSNBackwards, "checkpoint %d is at %s, the server's WAL ends at %s", c.Seq, c.Pos, w)
	case c.Pos.Cut() && c.OptionsHash != st.OptionsHash:
		return start{}, fault.New(fault.CutChanged, "transaction at %s is published up to change %d", c.Pos.CommitLSN, c.Pos.Ordinal)
	}
	s := start{base: c, override: override}
	s.resume = replication.Resume{Floor: c.Pos.EndLSN}
	if c.Pos.Cut() {
		s.resume.CutLSN, s.resume.CutOrd = c.Pos.CommitLSN, c.Pos.Ordinal
	}
	// The server skips a transaction iff its commit record starts below the
	// slot's position (SnapBuildXactNeedsSkip), so this one must come again.
	if last := c.LastTx; last.CommitLSN != 0 && f <= last.CommitLSN {
		s.resume.WitnessLSN, s.resume.WitnessXID = last.CommitLSN, last.XID
	}
	return s, nil
}

// Judge tells what a session that found this would halt with, or nil if it would
// stream. It is for those who look on: sess.State may have been read without a
// barrier, so it decides nothing.
func Judge(st replication.State, sess sink.Session) error {
	_, err := reconcile(st, sess, nil)
	return err
}

// acceptGap moves the checkpoint to a slot that is ahead of it, if a person has
// accepted exactly that. It returns the audit record, empty without a gap.
func acceptGap(c *checkpoint.Checkpoint, st replication.State, accept *Gap) (string, error) {
	f := st.Slot.ConfirmedLSN
	if f <= c.Pos.EndLSN {
		return "", nil
	}
	gap := Gap{Checkpoint: c.Pos.EndLSN, Slot: f}
	switch {
	case accept == nil:
		return "", fault.New(fault.Gap, "slot %s is at %s, %d bytes ahead of checkpoint %d at %s",
			st.Slot.Name, f, int64(f-c.Pos.EndLSN), c.Seq, c.Pos.EndLSN).WithFix("outbox-relay recover publishes the rows of that range from the table; outbox-relay serve --accept-gap %s gives up exactly that range", gap)
	case *accept != gap:
		return "", fault.New(fault.GapMismatch, "--accept-gap %s, but the gap is %s", *accept, gap)
	}
	c.Pos.EndLSN = f
	if c.Pos.Cut() && f <= c.Pos.CommitLSN {
		// It commits behind the gap, so it comes again, whole: it stays cut, or
		// what is published of it would be published twice.
		return "accept-gap " + gap.String(), nil
	}
	c.Pos.Ordinal, c.LastTx = 0, checkpoint.Transaction{}
	return "accept-gap " + gap.String(), nil
}

// published is the position below which everything, or of a cut transaction
// something, is in Kafka.
func published(p checkpoint.Position) pglogrepl.LSN {
	if p.Cut() {
		return p.CommitLSN + 1
	}
	return p.EndLSN
}

// sameSource refuses a checkpoint that was written for something else.
func sameSource(c checkpoint.Checkpoint, st replication.State, sess sink.Session) error {
	switch {
	case c.Source.ClusterID != sess.ClusterID || c.Source.TopicID != sess.TopicID:
		return fault.New(fault.CheckpointForked, "checkpoint %d was written to topic %s of cluster %s, this is topic %s of cluster %s",
			c.Seq, c.Source.TopicID, c.Source.ClusterID, sess.TopicID, sess.ClusterID)
	case c.Source.SystemID != st.SystemID:
		return fault.New(fault.IdentityChanged, "checkpoint %d belongs to system %s, this is system %s", c.Seq, c.Source.SystemID, st.SystemID)
	case c.Source.Database != st.Database || c.Source.Slot != st.Slot.Name:
		return fault.New(fault.NameChanged, "checkpoint %d belongs to slot %s of database %s, this is slot %s of database %s",
			c.Seq, c.Source.Slot, c.Source.Database, st.Slot.Name, st.Database)
	}
	return nil
}

// sameHistory refuses a timeline on which the checkpoint never happened, and
// moves the checkpoint onto the server's timeline where it did.
func sameHistory(c *checkpoint.Checkpoint, st replication.State) error {
	if st.Timeline < c.Pos.Timeline {
		return fault.New(fault.OldPrimary, "server is on timeline %d, checkpoint %d on %d", st.Timeline, c.Seq, c.Pos.Timeline)
	}
	if st.Timeline == c.Pos.Timeline {
		return nil
	}
	top := published(c.Pos)
	for _, s := range st.Switches {
		if s.Timeline != c.Pos.Timeline {
			continue
		}
		if top > s.At {
			return fault.New(fault.Diverged, "published up to %s on timeline %d, which timeline %d left at %s: transactions in (%s, %s] are in Kafka and no longer in the database",
				top, c.Pos.Timeline, st.Timeline, s.At, s.At, top)
		}
		c.Pos.Timeline = st.Timeline
		return nil
	}
	return fault.New(fault.Diverged, "timeline %d does not descend from timeline %d of checkpoint %d", st.Timeline, c.Pos.Timeline, c.Seq)
}
