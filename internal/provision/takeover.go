package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// TakeOver names a slot that somebody else has read so far, and where that one
// stopped. Both are repeated by whoever means it: they fit this moment and no
// other.
type TakeOver struct {
	Slot string
	At   pglogrepl.LSN
}

// Survey is what a take-over would begin with.
type Survey struct {
	Slot        string
	At          pglogrepl.LSN // everything that committed below it is the former reader's
	LagBytes    int64         // WAL behind it
	Failover    bool          // a standby keeps the slot in step
	Version     int           // server_version_num
	Publication string
	AllTables   bool // the publication is of all tables
	Tables      int  // in it
	Ahead       replication.Ahead
	Done        *checkpoint.Checkpoint // the relay has it already
	SlotHolder  string                 // who streams from it now; empty: nobody
}

// lookAhead bounds how much is decoded to find out what comes first.
const lookAhead = 10_000

// holdTimeout bounds the taking of a slot that was free a moment ago.
const holdTimeout = 10 * time.Second

// Survey looks at a slot that is to be taken over, and changes nothing. What
// would make it impossible is its error; that somebody still reads from it is
// not.
func (p *Plan) Survey(ctx context.Context) (Survey, error) {
	srv, err := replication.Connect(ctx, p.Source)
	if err != nil {
		return Survey{}, err
	}
	defer srv.Close()
	return p.survey(ctx, srv)
}

func (p *Plan) survey(ctx context.Context, srv *replication.Server) (Survey, error) {
	if err := srv.CheckServer(ctx); err != nil {
		return Survey{}, err
	}
	slot, err := srv.Slot(ctx)
	if err != nil {
		return Survey{}, err
	}
	s := Survey{
		Slot: slot.Name, At: slot.ConfirmedLSN, LagBytes: slot.LagBytes(), Failover: slot.Failover, Publication: p.Source.Publication,
	}
	// Also of a publication that init would make: that one is younger than the
	// slot, and what was written in between could not be decoded.
	if err := srv.Check(ctx); err != nil {
		if fault.Has(err, fault.PublicationMissing) || fault.Has(err, fault.PublicationShape) {
			return Survey{}, p.publications(ctx, srv, err)
		}
		return Survey{}, err
	}
	if err := p.columns(ctx, srv); err != nil {
		return Survey{}, err
	}
	err = srv.Conn().QueryRow(ctx, `SELECT current_setting('server_version_num')::int, p.puballtables,
	    (SELECT count(*) FROM pg_publication_tables t WHERE t.pubname = p.pubname) FROM pg_publication p WHERE p.pubname = $1`, p.Source.Publication).
		Scan(&s.Version, &s.AllTables, &s.Tables)
	if err != nil {
		return Survey{}, fault.Wrap(err, fault.Unclassified, "read publication %s", p.Source.Publication)
	}
	if s.Done, err = p.known(ctx); err != nil || s.Done != nil {
		return s, err
	}
	if slot.Active {
		s.SlotHolder = replication.WhoHolds(ctx, srv.Conn(), slot.ActivePID).String()
		return s, nil
	}
	s.Ahead, err = srv.Peek(ctx, lookAhead)
	switch {
	case fault.Has(err, fault.PublicationHole):
		return s, p.publications(ctx, srv, fault.Wrap(err, fault.PublicationHole, "publication %s is younger than position %s of slot %s", p.Source.Publication, s.At, s.Slot))
	case fault.Has(err, fault.SlotHeld):
		s.SlotHolder = "somebody, since a moment ago"
		return s, nil
	}
	return s, err
}

// publications adds to a refusal which publications have the table: the former
// reader's is among them.
func (p *Plan) publications(ctx context.Context, srv *replication.Server, refusal error) error {
	rows, err := srv.Conn().Query(ctx, `SELECT t.pubname::text FROM pg_publication_tables t JOIN pg_publication p ON p.pubname = t.pubname
	  WHERE t.schemaname = $1 AND t.tablename = $2 AND p.pubinsert AND t.pubname <> $3 ORDER BY 1`, p.Source.Schema, p.Source.Table, p.Source.Publication)
	if err != nil {
		return refusal
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	var f *fault.Error
	if err != nil || len(names) == 0 || !errors.As(refusal, &f) {
		return refusal
	}
	return f.WithFix("OUTBOX_PUBLICATION=%s, which has the table; it has to be the one that the slot was read with", names[0])
}

// known is the checkpoint that the relay has already, or nil.
func (p *Plan) known(ctx context.Context) (*checkpoint.Checkpoint, error) {
	there, err := p.exists(ctx, p.Sink.CheckpointTopic)
	if err != nil || !there {
		return nil, err
	}
	state, err := peek(ctx, checkpoint.Log{Topic: p.Sink.CheckpointTopic, Name: p.Sink.Name, Opts: p.Kafka})
	return state.Last, err
}

// TakeOver begins the relay where the slot's former reader stopped: topics, an
// intent, and the first checkpoint at the slot's position. Slot and publication
// stay as they are. The slot is held meanwhile, so that the former reader cannot
// come back in the middle and move it. Done once, it changes nothing.
func (p *Plan) TakeOver(ctx context.Context, want TakeOver) (Outcome, error) {
	srv, err := replication.Connect(ctx, p.Source)
	if err != nil {
		return Outcome{}, err
	}
	defer srv.Close()
	if err := srv.Lock(ctx, p.Sink.Name); err != nil {
		return Outcome{}, err
	}
	s, err := p.survey(ctx, srv)
	if err != nil {
		return Outcome{}, err
	}
	if s.Done != nil {
		return Outcome{Position: s.At, Checkpoint: *s.Done}, nil
	}
	if s.SlotHolder != "" {
		return Outcome{}, fault.New(fault.TakeOverHeld, "slot %s is held by %s", s.Slot, s.SlotHolder)
	}
	if err := s.means(want); err != nil {
		return Outcome{}, err
	}
	if err := p.createTopics(ctx); err != nil {
		return Outcome{}, err
	}
	id, err := srv.Identify(ctx)
	if err != nil {
		return Outcome{}, err
	}
	slot, release, err := p.hold(ctx)
	if err != nil {
		return Outcome{}, err
	}
	defer release()
	s.At = slot.ConfirmedLSN
	if err := s.means(want); err != nil {
		return Outcome{}, err
	}
	return p.create(ctx, srv, id, slot, true)
}

// hold takes the slot and keeps it until release is called.
func (p *Plan) hold(ctx context.Context) (slot replication.Slot, release func(), err error) {
	octx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	src, err := replication.Open(octx, p.Source, p.Log, nil)
	if err != nil {
		if octx.Err() != nil && ctx.Err() == nil {
			err = fault.Wrap(err, fault.TakeOverHeld, "take slot %s", p.Source.Slot)
		}
		return replication.Slot{}, nil, err
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = src.Run(run) // whoever reads the slot from here on finds out what was the matter
	}()
	return src.State().Slot, func() { stop(); <-done }, nil
}

// means refuses numbers that are not those of the slot.
func (s Survey) means(want TakeOver) error {
	if want.Slot == s.Slot && want.At == s.At {
		return nil
	}
	asked := fmt.Sprintf("%s at %s was asked for", want.Slot, want.At)
	if want.At == 0 {
		asked = "no position was given"
	}
	return fault.New(fault.TakeOverMismatch, "slot %s is at %s, and %s", s.Slot, s.At, asked).
		WithFix("%s", s.Command())
}

// Command is what takes over exactly what was found.
func (s Survey) Command() string {
	return fmt.Sprintf("outbox-relay init --take-over %s --at %s", s.Slot, s.At)
}
