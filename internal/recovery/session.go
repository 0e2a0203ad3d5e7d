package recovery

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/relay"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// Begin implements relay.Refill.
func (r *Recovery) Begin(ctx context.Context, st replication.State, sess sink.Session) (relay.Filling, error) {
	last := sess.State.Last
	if r.ending && last != nil && last.Recovery == nil && last.Seq > r.newest.Seq {
		r.newest = *last
		return relay.Filling{}, relay.ErrRefilled
	}
	if err := r.unchanged(last); err != nil {
		return relay.Filling{}, err
	}
	if st.SystemID != r.Server.SystemID || st.Timeline != r.Server.Timeline {
		return relay.Filling{}, fault.New(fault.RecoveryMismatch, "system %s on timeline %d, and it was system %s on timeline %d", st.SystemID, st.Timeline, r.Server.SystemID, r.Server.Timeline).
			WithWhy("the database was switched over meanwhile").WithFix("outbox-relay recover again: it goes on with what is left")
	}
	r.ending = false
	r.rows.close()
	fresh := !r.snap.alive() || r.Found == nil
	if fresh {
		r.Server.Slot, r.ClusterID, r.TopicID = st.Slot, sess.ClusterID, sess.TopicID
		if err := r.find(ctx); err != nil {
			return relay.Filling{}, err
		}
	}
	base := r.base(last)
	if fresh {
		r.first = max(base.RowsTotal, base.Pos.Ordinal, r.handed)
	}
	r.newest = base
	skip := uint64(0)
	if base.Pos.Ordinal > r.first {
		skip = base.Pos.Ordinal - r.first
	}
	var err error
	if r.rows, err = read(ctx, r.snap.tx, r.table, r.look, r.Resume.EndLSN-1, r.first, r.chosen()...); err != nil {
		return relay.Filling{}, err
	}
	if err := r.rows.skip(skip); err != nil {
		return relay.Filling{}, err
	}
	r.rows.ord += skip
	end := r.Resume
	if !end.Cut() {
		end.CommitLSN = end.EndLSN - 1 // as the rows of the recovery have it
	}
	f := relay.Filling{Base: base, End: end, Ended: r.ended, Audit: r.audit}
	if !r.announced || last == nil || last.Recovery == nil {
		f.Begun = "recover " + r.Code + " " + r.id + " begun"
	}
	return f, nil
}

// unchanged refuses a checkpoint that somebody has written since the diagnosis.
func (r *Recovery) unchanged(last *checkpoint.Checkpoint) error {
	then := r.State.Last
	switch {
	case last != nil && last.Recovery != nil && last.Recovery.ID == r.id:
		return nil
	case (last == nil) == (then == nil) && (last == nil || last.Seq == then.Seq && last.SessionID == then.SessionID):
		return nil
	}
	return fault.New(fault.RecoveryMismatch, "a checkpoint was written since it was looked at").
		WithWhy("a relay or another recovery was at work").WithFix("stop all replicas, then run outbox-relay recover again")
}

// base is the checkpoint that the recovery goes on from.
func (r *Recovery) base(last *checkpoint.Checkpoint) checkpoint.Checkpoint {
	var c checkpoint.Checkpoint
	if last != nil {
		c = *last
	}
	if c.Recovery != nil && c.Recovery.ID == r.id && c.Pos.Timeline == r.Resume.Timeline {
		c.Rebased = false
		return c
	}
	if c.Recovery == nil || c.Recovery.ID != r.id {
		c.Recovery = r.recovery(c)
	}
	c.Seq = max(c.Seq, r.Found.Number)
	c.LastTx = checkpoint.Transaction{}
	before := checkpoint.Position{Timeline: r.Resume.Timeline, EndLSN: r.Resume.EndLSN}
	if b := r.Before; b != nil && b.EndLSN <= before.EndLSN && r.Left.Timeline == 0 {
		before = *b
	}
	c.Pos, c.Rebased = before, r.Rebased
	return c
}

// recovery is what the checkpoints say of it, given the one before.
func (r *Recovery) recovery(c checkpoint.Checkpoint) *checkpoint.Recovery {
	out := &checkpoint.Recovery{ID: r.id, Code: r.Code, Began: r.began, At: newestPublished(c), Rows: c.RowsTotal, Letters: c.LettersTotal}
	if r.Before != nil || r.Left.Timeline != 0 {
		out.From = c.Pos
	}
	return out
}

// Next implements relay.Refill.
func (r *Recovery) Next(_ context.Context, most int) (*replication.Tx, error) {
	tx, err := r.rows.next(most)
	r.handed = max(r.handed, r.rows.ord)
	return tx, err
}

// Committed implements relay.Refill.
func (r *Recovery) Committed(c checkpoint.Checkpoint) {
	r.newest = c
	if held := time.Since(r.warned); held > longSnapshot {
		r.warned = time.Now()
		r.cfg.Log.Warn().Dur("since", time.Since(r.taken).Round(time.Second)).Msg("the snapshot of the table is still held: vacuum removes nothing that is younger, and the slot keeps its WAL")
	}
	if r.cfg.Progress != nil {
		r.cfg.Progress(audit.Progress{Step: "publish", Done: int64(c.Pos.Ordinal - r.first), Total: r.Owed()})
	}
}

// Published is how many rows the recovery has published in all, and how many
// letters were among them.
func (r *Recovery) Published() (rows, letters uint64) {
	c := r.newest
	if c.Recovery != nil {
		return c.RowsTotal - c.Recovery.Rows, c.LettersTotal - c.Recovery.Letters
	}
	return r.counted(c)
}

func (r *Recovery) counted(c checkpoint.Checkpoint) (rows, letters uint64) {
	var before checkpoint.Checkpoint
	if last := r.State.Last; last != nil {
		before = *last
	}
	if u := r.UnderWay; u != nil {
		before.RowsTotal, before.LettersTotal = u.Rows, u.Letters
	}
	return c.RowsTotal - before.RowsTotal, c.LettersTotal - before.LettersTotal
}

// Owed is how many rows are to be published.
func (r *Recovery) Owed() (n int64) {
	for _, set := range r.chosen() {
		n += set.Count
	}
	return n
}

// chosen are the rows to be published: those that are missing, and, where a
// person said so, those of which nobody knows.
func (r *Recovery) chosen() []*audit.Rows {
	all := []*audit.Rows{&r.Found.Missing}
	if r.includes() {
		all = append(all, &r.Found.Doubtful)
	}
	return all
}

func (r *Recovery) includes() bool {
	return slices.Contains(r.cfg.Accept, unknownWord+strconv.FormatInt(r.Found.Doubtful.Count, 10))
}

func (r *Recovery) ended(c checkpoint.Checkpoint) string {
	r.ending = true
	rows, letters := r.counted(c)
	text := fmt.Sprintf("recover %s %s done: %d rows from the table, %d of them dead letters, then the slot from %s", r.Code, r.id, rows, letters, r.Resume)
	if len(r.cfg.Accept) > 0 {
		text += "; accepted " + strings.Join(r.cfg.Accept, " ")
	}
	return text
}

func (r *Recovery) audit(c checkpoint.Checkpoint, done bool) (*kgo.Record, error) {
	host, _ := os.Hostname()
	rows, letters := r.counted(c)
	a := checkpoint.Audit{
		ID: r.id, Code: r.Code, Accepted: r.cfg.Accept, State: "begun", To: r.Resume.String(), Rows: rows, Letters: letters,
		Host: host, PID: os.Getpid(), Version: r.cfg.Version, Began: r.began, Time: time.Now(),
	}
	for _, f := range r.Findings {
		a.Text += f.Error() + "; "
	}
	a.Text += "slot: " + string(r.Slot)
	if last := r.State.Last; last != nil {
		a.From = last.Pos.String()
		if u := r.UnderWay; u != nil {
			a.From = u.From.String()
		}
	}
	if !r.includes() {
		a.LeftOut = uint64(r.Found.Doubtful.Count)
	}
	if done {
		a.State = "done"
	}
	r.announced = true
	return a.Record(r.cfg.Checkpoint, r.cfg.Name)
}
