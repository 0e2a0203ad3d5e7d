// Package explain finds out where one event is.
//
// Its job: follow an event from its row through the slot to a record in Kafka
// or to a dead letter, and say at each station how somebody can see it without
// this program.
//
// Invariants: nothing is changed by looking. "Missing" is said only if it is
// proven: the row was visible, the relay had confirmed a position behind its
// commit, and every record that had committed by then has been read. Whatever
// stands in the way of that proof makes the answer "undecided". Neither key nor
// payload of the event is shown.
//
// It leaves to others: what a letter means and what became of it (dlq, through
// Letters), and repairing anything.
package explain

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
)

// The verdicts.
const (
	Published  = "published"   // there is a record
	DeadLetter = "dead_letter" // there is an open letter, and no record
	Parked     = "parked"      // it waits behind another letter of its key
	Closed     = "closed"      // its letter was purged, or replayed to where was not looked
	Pending    = "pending"     // the relay has not come to its commit
	Undecided  = "undecided"   // the search did not end
	Missing    = "missing"     // the relay has passed its commit, and it is nowhere
	Unknown    = "unknown"     // there is no row either
)

// Answer is where an event is; its keys are stable.
type Answer struct {
	ID      string   `json:"id"`
	Verdict string   `json:"verdict"`
	Text    string   `json:"text"`
	Row     *Row     `json:"row"`
	Slot    *Slot    `json:"slot"`
	Records []Record `json:"records"`
	Letters []Letter `json:"letters"`
	Topics  []string `json:"topics"`  // that were searched
	Scanned int64    `json:"scanned"` // records that were read for it
	Steps   []Step   `json:"steps"`
}

// Row is the event in the outbox table.
type Row struct {
	Table         string     `json:"table"` // or partition
	CTID          string     `json:"ctid"`
	XID           uint32     `json:"xid"`
	AggregateType string     `json:"aggregate_type"`
	Type          string     `json:"type"`
	CreatedAt     *time.Time `json:"created_at"`
	// CommitTime is known where track_commit_timestamp is on.
	CommitTime *time.Time `json:"commit_time"`
	// BelowLSN is a position that the row's commit is below.
	BelowLSN string `json:"below_lsn"`
	topic    string
}

// Slot is how far the relay is.
type Slot struct {
	Name      string `json:"name"`
	Confirmed string `json:"confirmed_flush_lsn"`
	LeftBytes int64  `json:"left_bytes"` // to the position that the row is below
	Active    bool   `json:"active"`
}

// Record is the event in Kafka.
type Record struct {
	Topic      string    `json:"topic"`
	Partition  int32     `json:"partition"`
	Offset     int64     `json:"offset"`
	Time       time.Time `json:"time"`
	LSN        string    `json:"lsn"` // of the commit
	XID        string    `json:"xid"`
	CommitTime string    `json:"commit_time"`
	Checkpoint string    `json:"checkpoint_seq"` // of the Kafka transaction
	Source     string    `json:"source"`
	Replayed   string    `json:"replayed_at,omitempty"`
	Recovered  string    `json:"recovered_at,omitempty"`
}

// Letter is the event as a dead letter.
type Letter struct {
	State     string    `json:"state"`
	Reason    string    `json:"reason"`
	Code      string    `json:"code"`
	Group     string    `json:"group,omitempty"`
	Time      time.Time `json:"time"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Marks     []Mark    `json:"marks"`
}

// Mark is what was done with a letter.
type Mark struct {
	Action string    `json:"action"`
	Time   time.Time `json:"time"`
	By     string    `json:"by"`
	Topic  string    `json:"topic,omitempty"` // where a replay went
	Code   string    `json:"code,omitempty"`
}

// Step is how to see a station oneself.
type Step struct {
	What    string `json:"what"`
	SQL     string `json:"sql,omitempty"`
	Command string `json:"command,omitempty"`
}

// Config says where to look.
type Config struct {
	ID       string
	Server   *replication.Server
	Slot     string
	Table    outbox.Table
	Columns  outbox.Columns
	Events   string   // topic, or empty
	Template string   // of topics, or empty
	Topics   []string // to search besides
	DLQ      string   // topic of letters
	Brokers  string   // for commands
	Kafka    []kgo.Opt
	// Letters reads the letters of the event.
	Letters func(context.Context) ([]Letter, error)
	// Patience is how long a relay that is behind is waited for.
	Patience time.Duration
	// Progress is told how much of the topics is read. May be nil.
	Progress func(done, total int64)
}

// Run finds out where the event is. The deadline of ctx bounds the search, and
// makes it undecided.
func Run(ctx context.Context, cfg Config) (Answer, error) {
	if cfg.Progress == nil {
		cfg.Progress = func(int64, int64) {}
	}
	s := &search{cfg: cfg, a: Answer{ID: cfg.ID, Records: []Record{}, Letters: []Letter{}, Topics: []string{}, Steps: []Step{}}, done: map[at]span{}}
	err := s.run(ctx)
	if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		s.a.Verdict, s.a.Text, err = Undecided, "the search did not end in the time that was given", nil
	}
	s.steps()
	return s.a, err
}

func (s *search) run(ctx context.Context) error {
	if err := s.row(ctx); err != nil {
		return err
	}
	passed, err := s.slot(ctx)
	if err != nil {
		return err
	}
	complete, err := s.look(ctx)
	if err != nil || s.found() {
		return err
	}
	if !passed && s.a.Row != nil && s.a.Slot != nil && s.a.Slot.Active && s.cfg.Patience > 0 {
		// The relay may be on its way: what comes by then is read as well.
		if passed, err = s.wait(ctx); err != nil {
			return err
		}
		if complete, err = s.look(ctx); err != nil || s.found() {
			return err
		}
	}
	s.judge(passed, complete)
	return nil
}

// look reads the letters, and then the topics, where those that were replayed
// went among them. Both come after the slot: what it had passed then is decided.
func (s *search) look(ctx context.Context) (complete bool, err error) {
	letters, err := s.cfg.Letters(ctx)
	if err != nil {
		return false, err
	}
	if letters != nil {
		s.a.Letters = letters
	}
	s.topics()
	return s.kafka(ctx)
}

// found says where the event is, if it is anywhere.
func (s *search) found() bool {
	switch {
	case len(s.a.Records) > 0:
		r := s.a.Records[0]
		s.a.Verdict, s.a.Text = Published, "it is in Kafka: "+r.Topic+" partition "+itoa(int64(r.Partition))+" offset "+itoa(r.Offset)
		if r.Replayed != "" {
			s.a.Text += ", replayed from a dead letter"
		}
		return true
	case len(s.a.Letters) > 0:
		l := s.a.Letters[len(s.a.Letters)-1]
		s.a.Verdict, s.a.Text = DeadLetter, "it is a dead letter: "+l.Code+" "+l.Reason
		switch l.State {
		case "parked":
			s.a.Verdict, s.a.Text = Parked, "it waits behind an earlier dead letter of its key"
		case "open", "waiting":
		default:
			s.a.Verdict, s.a.Text = Closed, "its dead letter is "+l.State
		}
		return true
	}
	return false
}

// judge says why the event was not found.
func (s *search) judge(passed, complete bool) {
	switch {
	case !complete:
		s.a.Verdict, s.a.Text = Undecided, "a transaction is open in a topic, behind which nothing can be read"
	case s.a.Row == nil:
		s.a.Verdict, s.a.Text = Unknown, "there is no row, no record and no dead letter with this id"
	case s.a.Slot == nil:
		s.a.Verdict, s.a.Text = Undecided, "the relay's slot does not exist or is lost, so nobody knows whether the row was passed"
	case !passed:
		s.a.Verdict = Pending
		s.a.Text = "not yet: the slot stands at " + s.a.Slot.Confirmed + ", and the row's transaction may be behind it"
	default:
		s.a.Verdict = Missing
		s.a.Text = "the relay has passed its commit, and it is in no topic that was searched and no dead letter"
	}
}

// Fault is the answer as a failure: nil if the event was found, or is on its
// way.
func (a *Answer) Fault() error {
	switch a.Verdict {
	case Missing:
		return fault.New(fault.EventMissing, "event %.100q", a.ID)
	case Unknown:
		return fault.New(fault.EventUnknown, "event %.100q", a.ID)
	case Undecided:
		return fault.New(fault.EventUndecided, "event %.100q: %s", a.ID, a.Text)
	}
	return nil
}
