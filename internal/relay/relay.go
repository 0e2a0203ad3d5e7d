package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// Source is a slot that is held. Run closes it.
type Source interface {
	State() replication.State
	Run(ctx context.Context) error
	Resume(replication.Resume)
	Next(ctx context.Context) (*replication.Tx, error)
	Confirm(pglogrepl.LSN)
}

// Sink writes one Kafka transaction at a time.
type Sink interface {
	Begin() error
	Add(*kgo.Record)
	Commit(ctx context.Context, ck checkpoint.Checkpoint) error
	ReadBack(ctx context.Context, ck checkpoint.Checkpoint) error
	Close()
}

// RowTranslator turns rows into records; see Translator.
type RowTranslator interface {
	Translate(ctx context.Context, tx *replication.Tx, dst []*kgo.Record) (records []*kgo.Record, letters uint64, err error)
}

// Commit is one Kafka transaction that is visible to read_committed readers.
// The records are the relay's: a reader must not change them, and what it keeps
// of them keeps their memory.
type Commit struct {
	Checkpoint checkpoint.Checkpoint
	Records    []*kgo.Record // events and letters of rows, in commit order; partition and offset are set
	Released   []*kgo.Record // letters that were parked and went on
	Letters    uint64        // how many of Records are dead letters
	Oldest     time.Time     // commit in Postgres of the first row; zero without rows
	Began      time.Time
	Ended      time.Time // read back
}

// State of a relay, as people see it.
type State string

// The states.
const (
	Starting  State = "starting"
	Standby   State = "standby"
	Streaming State = "streaming"
	Paused    State = "paused"
	Backoff   State = "backoff"
	Failed    State = "failed"
	Stopped   State = "stopped"
)

// Relay moves rows from a slot to Kafka until it is stopped. All fields are
// set before Run and not changed after.
type Relay struct {
	// OpenSource takes the slot, waiting as a standby if it has to.
	OpenSource func(ctx context.Context) (Source, error)
	// OpenSink fences, writes the barrier and reads the checkpoint. It is only
	// called while the slot is held.
	OpenSink      func(ctx context.Context) (Sink, sink.Session, error)
	NewTranslator func(replication.State, sink.Session) (RowTranslator, error)
	// Breaker guards OpenSink. The caller runs it.
	Breaker *breaker.Breaker

	// Letters says what is done about rows that can be no event; nil: every
	// one becomes a letter, and nothing follows from it.
	Letters *Letters
	// Probe tries records out in a transaction that is aborted; see
	// sink.Probe. nil: a record that a broker refuses is tried for ever.
	Probe func(ctx context.Context, sess sink.Session, records []*kgo.Record) (refused, err error)

	Publication string // for the checkpoint
	Version     string
	Limits      Limits
	// Heartbeat is how often an idle relay writes its position when the WAL
	// has moved without rows.
	Heartbeat time.Duration
	// MinCommitInterval spaces Kafka transactions, each of which adds a record
	// to the checkpoint topic. Zero: none.
	MinCommitInterval time.Duration
	// DrainTimeout is how long a commit under way may take once Run's context
	// has ended.
	DrainTimeout time.Duration
	// AcceptGap is the override for a gap, or nil. It serves once.
	AcceptGap *Gap

	// Refill publishes rows that no slot sends any more, in place of the stream;
	// Run then returns nil when it is done. nil: the relay streams.
	Refill Refill

	// Paused returns why the relay is to hold its slot and do nothing, or nil,
	// and a channel that is closed when that changes. May be nil.
	Paused func() (*fault.Error, <-chan struct{})
	// OnCommit is told each Kafka transaction whose checkpoint was read back and
	// confirmed, by the goroutine that is to begin the next one: it returns at
	// once. May be nil.
	OnCommit func(Commit)
	// OnState is told each change; cause is nil in a sound state. May be nil.
	OnState func(s State, cause *fault.Error)
	// Beat is called every few seconds for as long as Run runs. May be nil.
	Beat func()
	// Pause returns the wait before attempt n+1; nil is Backoffs.
	Pause   func(attempt int) time.Duration
	Log     zerolog.Logger
	Metrics *Metrics

	attempt  int  // failed sessions since something was delivered
	accepted bool // AcceptGap has served

	opened      sink.Session        // the newest
	suspected   map[dlq.Place]bool  // rows of batches that were too large once
	refusedRows map[dlq.Place]error // rows that a broker refuses, to become letters
	undated     map[dlq.Place]bool  // rows whose letters it refuses with the time of their event
	rate        letterRate
	news        letterNews
}

// sinkAttempts is how often a failure that is not Kafka's may keep a session
// from opening, such as a Postgres that cannot be asked whether the slot is
// still ours. What is Kafka's is for the breaker to count.
const sinkAttempts = 5

// offer is how long the slot is left to others when the breaker opens. A
// standby looks every 250 ms (replication.Config.StandbyPoll), give or take a
// half: it gets to look twice at least.
const offer = time.Second

// backoffs are the waits between attempts, in seconds; the last repeats.
var backoffs = [...]int{1, 2, 4, 8, 10}

// Backoffs is the wait after the n-th failure in a row: 1, 2, 4, 8, then 10 s,
// shortened by up to a half at random so that replicas do not march in step.
func Backoffs(n int) time.Duration {
	d := time.Duration(backoffs[min(max(n, 1), len(backoffs))-1]) * time.Second
	return d/2 + rand.N(d/2)
}

// Run relays until ctx ends, and then drains: the commit under way is finished
// if it fits DrainTimeout. It returns nil when stopped, and otherwise the
// failure of class Halt that a person has to decide on.
func (r *Relay) Run(ctx context.Context) error {
	hard, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(r.DrainTimeout, func() {
			cancel(fault.New(fault.Shutdown, "commit under way did not end within %s", r.DrainTimeout))
		})
	})
	defer stop()
	if r.Beat != nil {
		beating := make(chan struct{})
		go func() {
			defer close(beating)
			r.beat(hard)
		}()
		defer func() { cancel(nil); <-beating }()
	}
	r.Metrics.limits(r.Limits)
	for {
		err := r.session(ctx, hard)
		if errors.Is(err, ErrRefilled) {
			r.state(Stopped, nil)
			return nil
		}
		if ctx.Err() != nil {
			r.state(Stopped, nil)
			if err != nil {
				r.Log.Warn().Err(err).Msg("stopped inside a session; the next start settles it")
			}
			return nil
		}
		if err == nil {
			continue
		}
		f := fault.As(err)
		if f.Code.Class != fault.Retry {
			if f.Code == fault.WALDecode {
				r.Metrics.unread(decodeStream)
			}
			r.state(Failed, f)
			return err
		}
		r.state(Backoff, f)
		learned := r.suspect(hard, err)
		wait := offer
		switch {
		case learned:
			wait, r.attempt = 0, 0 // the next session has something new to try
		case f.Code == fault.BreakerOpen:
			// The breaker has said so, and says it once per outage.
			r.Log.Debug().Str("code", f.Code.ID).Dur("wait", wait).Msg("slot offered to other replicas")
		default:
			r.attempt++
			wait = r.pause(r.attempt)
			r.Log.Warn().Fields(f.Fields()).Err(err).Dur("wait", wait).Msg("session ended")
		}
		r.Metrics.session(f.Code.Name)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// Standby is called by OpenSource when it finds the slot held and waits.
func (r *Relay) Standby() { r.state(Standby, nil) }

// beatInterval is a fraction of what a liveness probe tolerates.
const beatInterval = 5 * time.Second

func (r *Relay) beat(ctx context.Context) {
	t := time.NewTicker(beatInterval)
	defer t.Stop()
	for {
		r.Beat()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Relay) pause(attempt int) time.Duration {
	if r.Pause != nil {
		return r.Pause(attempt)
	}
	return Backoffs(attempt)
}

func (r *Relay) state(s State, cause *fault.Error) {
	r.Metrics.state(s)
	if r.OnState != nil {
		r.OnState(s, cause)
	}
}
