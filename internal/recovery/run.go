package recovery

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/audit"
	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/provision"
	"github.com/holdwall/outbox-relay/internal/relay"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

const (
	// slotTimeout bounds the creation of the slot, which waits for every open
	// transaction of the server.
	slotTimeout = 10 * time.Minute
	// skew is how far the clocks may be apart that times of creation come from.
	skew = time.Minute
	// longSnapshot is how often it is told that a snapshot is still held.
	longSnapshot = 10 * time.Minute
)

// Recovery is one recovery, from the survey to its last checkpoint. It is the
// Refill of a relay. It is for one goroutine at a time.
type Recovery struct {
	*Diagnosis
	// Found is what is missing; nil before it was looked for.
	Found *audit.Outcome
	// Resume is where a relay goes on; known with Found.
	Resume checkpoint.Position

	cfg     Config
	control *replication.Server // holds the lock
	id      string
	began   time.Time

	ready bool              // the slot is as planned
	made  *replication.Made // its snapshot, until that was taken over
	snap  *snapshot
	table audit.Config
	look  audit.Search
	rows  *reader

	taken, warned time.Time // of the snapshot

	first     uint64 // ordinal before the first row of Found
	handed    uint64 // highest ordinal that was handed over, by any session
	announced bool
	ending    bool
	newest    checkpoint.Checkpoint
}

// Open surveys and diagnoses. The caller closes the result. With exclusive, no
// other recovery or init of this relay can be at work until then.
func Open(ctx context.Context, cfg Config, exclusive bool) (*Recovery, error) {
	control, err := replication.Connect(ctx, cfg.Source)
	if err != nil {
		return nil, err
	}
	r := &Recovery{cfg: cfg, control: control, id: uuid.NewString(), began: time.Now()}
	for since := time.Now(); ; {
		err = r.open(ctx, exclusive)
		if err == nil {
			return r, nil
		}
		// What a recovery before held that was killed, the server lets go of soon.
		leaving := fault.Has(err, fault.RecoveryRunning) || fault.Has(err, fault.SlotHeld)
		if !exclusive || !leaving || time.Since(since) > leave {
			r.Close()
			return nil, err
		}
		select {
		case <-time.After(leave / 50):
		case <-ctx.Done():
		}
	}
}

// leave is how long the server may take to notice that a client has gone.
const leave = 5 * time.Second

func (r *Recovery) open(ctx context.Context, exclusive bool) error {
	if exclusive {
		got, err := r.control.TryLock(ctx, r.cfg.Name)
		if err != nil {
			return err
		}
		if !got {
			return fault.New(fault.RecoveryRunning, "relay %s on %s", r.cfg.Name, r.control.Describe())
		}
	}
	survey, err := LookAround(ctx, r.cfg, r.control)
	if err != nil {
		return err
	}
	if r.Diagnosis, err = Diagnose(r.cfg, survey); err != nil {
		return err
	}
	if u := r.UnderWay; u != nil {
		r.id, r.began = u.ID, u.Began
	}
	return nil
}

// Close gives up everything that is held but the slot itself.
func (r *Recovery) Close() {
	r.rows.close()
	r.snap.close()
	if r.made != nil {
		r.made.Close()
	}
	r.control.Close()
}

// Preview looks for what is missing, without changing or fencing anything: the
// answer is as of now, and a relay or writers at work make another of it.
func (r *Recovery) Preview(ctx context.Context) error { return r.find(ctx) }

// Source takes the slot, which is made before if that is the plan.
func (r *Recovery) Source(ctx context.Context, log zerolog.Logger, m *replication.Metrics) (*replication.Source, error) {
	if !r.ready {
		if err := r.makeReady(ctx); err != nil {
			return nil, err
		}
		r.ready = true
	}
	return replication.Open(ctx, r.cfg.Source, log, m)
}

func (r *Recovery) makeReady(ctx context.Context) error {
	if r.TopicMissing {
		if err := r.makeTopic(ctx); err != nil {
			return err
		}
	}
	if r.Slot == KeepSlot {
		return nil
	}
	if r.Slot == ReplaceSlot {
		if err := r.control.DropSlot(ctx); err != nil {
			return err
		}
		r.cfg.Log.Info().Str("slot", r.cfg.Source.Slot).Msg("slot dropped")
		crash.Point(crash.RecoverySlotDropped)
	}
	r.cfg.Log.Info().Str("slot", r.cfg.Source.Slot).Msg("creating the slot; this waits for every open transaction of the server")
	sctx, cancel := context.WithTimeout(ctx, slotTimeout)
	defer cancel()
	made, err := r.control.MakeSlot(sctx)
	if err != nil && sctx.Err() != nil && ctx.Err() == nil {
		return fault.Wrap(err, fault.PostgresUnreachable, "create slot %s within %s", r.cfg.Source.Slot, slotTimeout).
			WithWhy("creating a slot waits for every open transaction of the server").
			WithFix("SELECT pid, xact_start, query FROM pg_stat_activity WHERE xact_start < now() - interval '1 minute'; then run recover again")
	}
	if err != nil {
		return err
	}
	r.made = made
	r.cfg.Log.Info().Str("slot", r.cfg.Source.Slot).Str("lsn", made.At.String()).Msg("slot created")
	crash.Point(crash.RecoverySlotMade)
	return nil
}

func (r *Recovery) makeTopic(ctx context.Context) error {
	return r.admin(func(adm *kadm.Client) error { return provision.CheckpointTopic(r.cfg.Checkpoint).Create(ctx, adm) })
}

func (r *Recovery) admin(do func(*kadm.Client) error) error {
	opts, err := r.cfg.Kafka("recover")
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	defer cl.Close()
	return do(kadm.NewClient(cl))
}

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
	c.Recovery = &checkpoint.Recovery{ID: r.id, Code: r.Code, Began: r.began, At: newestPublished(c), Rows: c.RowsTotal, Letters: c.LettersTotal}
	if r.Before != nil || r.Left.Timeline != 0 {
		c.Recovery.From = c.Pos
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
