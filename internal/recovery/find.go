package recovery

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// find looks for what is missing.
func (r *Recovery) find(ctx context.Context) error {
	r.snap.close()
	var err error
	if r.snap, err = openSnapshot(ctx, r.cfg.Source, r.made); err != nil {
		r.snap = nil
		return err
	}
	r.taken = time.Now()
	r.warned = r.taken
	if r.made != nil {
		r.made.Close() // the snapshot is ours now
		r.made = nil
	}
	opts, err := r.cfg.Kafka("recover")
	if err != nil {
		return err
	}
	topics, err := r.topics(ctx)
	if err != nil {
		return err
	}
	r.table = audit.Config{
		Conn: r.control.Conn(), SystemID: r.Server.SystemID, Timeline: r.Server.Timeline,
		Table: r.cfg.Table, Columns: r.cfg.Columns, Shape: r.Shape, Slot: r.cfg.Source.Slot, Publication: r.cfg.Source.Publication,
		Kafka: opts, Router: r.cfg.Router, Letters: r.cfg.Letters, Since: r.cfg.Since.Truncate(time.Millisecond),
		Stall: r.cfg.Stall, TempDir: r.cfg.TempDir, Progress: r.cfg.Progress,
	}
	r.look = audit.Search{
		Tx: r.snap.tx, At: r.snap.at, Order: order(r.Survey, r.cfg.Columns), Topics: topics,
		Source: r.Server.Database + "/" + r.cfg.Source.Slot, Left: r.Left, Lost: r.cfg.Lost,
	}
	// A slot that is still to be made will send nothing that is visible now.
	if keeps := r.Slot == KeepSlot || r.ready; keeps && !r.snap.exact {
		f := r.Server.Slot.ConfirmedLSN
		r.look.Resume = func(high place) checkpoint.Position { return r.resume(f, high) }
	}
	if i := r.State.Intent; i != nil {
		r.look.Owed = i.Time
	}
	if last := r.State.Last; last != nil && last.LastTx.XID != 0 && !r.Rebased {
		r.look.Younger = fmt.Sprintf("age(xmin) < age('%d'::xid)", last.LastTx.XID)
	}
	switch {
	case r.UnderWay != nil && !r.UnderWay.At.IsZero():
		r.look.Unpublished = r.UnderWay.At.Add(skew)
	case r.UnderWay == nil && r.State.Last != nil:
		r.look.Unpublished = newestPublished(*r.State.Last).Add(skew)
	}
	if r.Found, err = audit.Find(ctx, r.table, r.look); err != nil {
		return err
	}
	r.cfg.Lost = nil // told once
	r.Resume = checkpoint.Position{Timeline: r.Server.Timeline, EndLSN: r.snap.at}
	if r.look.Resume != nil {
		r.Resume = r.look.Resume(r.Found.High)
	}
	return r.doubts()
}

// newestPublished is when the newest row committed that a checkpoint covers, by the
// clock of the database if that is known, or else when it was written.
func newestPublished(c checkpoint.Checkpoint) time.Time {
	if at := c.LastTx.CommitTime; !at.IsZero() {
		return at
	}
	return c.Time
}

// doubts refuses a number of rows of unknown fate that is not the one found.
func (r *Recovery) doubts() error {
	for _, words := range r.cfg.Accept {
		if strings.HasPrefix(words, unknownWord) && !r.includes() {
			return fault.New(fault.RecoveryMismatch, "--accept %s, and it is not known of %d rows whether they were published", words, r.Found.Doubtful.Count)
		}
	}
	return nil
}
