package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// firstWindow is how many offsets before the barrier the first read looks at.
// Every commit takes two offsets (record and marker) and the newest checkpoint
// is nearly always the one before the barrier, so start-up does not grow with
// the length of the topic. Each further window is windowGrowth times larger.
const (
	firstWindow  = 512
	windowGrowth = 16
)

// State is what the checkpoint topic says about one relay.
type State struct {
	Last       *Checkpoint // nil: no checkpoint was ever committed
	LastOffset int64
	Intent     *Intent // nil: init never started, or the record was compacted away
	SessionNo  uint64  // highest session number seen
}

// reading is a State that is being put together.
type reading struct {
	State
	// fork is what contradicts the history, until a checkpoint that says so
	// begins another.
	fork error
}

// Log reads the checkpoint topic of one relay.
type Log struct {
	Topic string
	Name  string
	Opts  []kgo.Opt // how to reach the cluster; no consumer options
	// Tolerant takes a history that contradicts itself as it is: the newest
	// record counts. It is for `recover`, which is called for that.
	Tolerant bool
}

// Load reads the topic backwards in growing windows, each up to the barrier
// that the caller has just committed at the given offset, until the newest
// checkpoint is seen or the topic is exhausted. It returns the state and a
// Tail that goes on reading behind the barrier; the caller closes the Tail.
//
// Records of another session behind the own barrier mean that somebody took
// over; they are left to the first Await. A record that cannot be read halts
// (CheckpointCorrupt), as does a seq that does not grow or a position that goes
// back (CheckpointForked). The deadline of ctx bounds the wait for the barrier
// and gives BarrierTimeout.
func (l *Log) Load(ctx context.Context, session string, barrier int64) (State, *Tail, error) {
	for window := int64(firstWindow); ; window *= windowGrowth {
		start := max(0, barrier-window)
		t, err := l.tail(start)
		if err != nil {
			return State{}, nil, err
		}
		st, err := t.readState(ctx, func(rec *kgo.Record, kind Kind) (bool, error) {
			if kind != Session {
				return false, nil
			}
			b, err := DecodeBarrier(rec)
			return err == nil && b.SessionID == session, err
		})
		if err == nil && (st.Last != nil || start == 0) {
			return st, t, nil
		}
		t.Close()
		if err != nil {
			if ctx.Err() != nil {
				return State{}, nil, fault.Wrap(err, fault.BarrierTimeout, "read barrier in %s", l.Topic)
			}
			return State{}, nil, err
		}
	}
}

// Peek reads the state as it is now, without a barrier and without fencing
// anybody. A commit that is under way may be missed: it is for people and for
// init, never for deciding where to resume.
func (l *Log) Peek(ctx context.Context) (State, error) { return l.peek(ctx, firstWindow) }

// PeekAll is Peek over the whole topic, for what only its beginning tells: the
// intent of init.
func (l *Log) PeekAll(ctx context.Context) (State, error) { return l.peek(ctx, math.MaxInt64) }

func (l *Log) peek(ctx context.Context, window int64) (State, error) {
	cl, err := kgo.NewClient(l.Opts...)
	if err != nil {
		return State{}, fmt.Errorf("open client for %s: %w", l.Topic, err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, l.Topic)
	if err != nil {
		return State{}, fmt.Errorf("list offsets of %s: %w", l.Topic, err)
	}
	// A topic that does not exist is listed with its error and no partition.
	if err := ends.Error(); err != nil {
		return State{}, fmt.Errorf("list offsets of %s: %w", l.Topic, err)
	}
	end, ok := ends.Lookup(l.Topic, 0)
	if !ok {
		return State{}, fmt.Errorf("list offsets of %s: partition 0 is not among them", l.Topic)
	}
	if end.Offset == 0 {
		return State{}, nil
	}
	for ; ; window *= windowGrowth {
		start := max(0, end.Offset-window)
		t, err := l.tail(start)
		if err != nil {
			return State{}, err
		}
		// The last offset of a transactional log is a marker, which the tail
		// is shown as well.
		st, err := t.readState(ctx, func(rec *kgo.Record, _ Kind) (bool, error) {
			return rec.Offset >= end.Offset-1, nil
		})
		t.Close()
		if err != nil || st.Last != nil || start == 0 {
			return st, err
		}
	}
}

func (l *Log) tail(start int64) (*Tail, error) {
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), l.Opts...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.Topic: {0: kgo.NewOffset().At(start)}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
	)...)
	if err != nil {
		return nil, fmt.Errorf("open reader of %s: %w", l.Topic, err)
	}
	return &Tail{cl: cl, log: l}, nil
}

// Tail reads the checkpoint topic forward, read_committed. It is used by one
// goroutine at a time.
type Tail struct {
	cl      *kgo.Client
	log     *Log
	pending []*kgo.Record
}

// Close ends the reader. It may be called once.
func (t *Tail) Close() { t.cl.Close() }

// next returns the next record. Markers and what belongs to others are of kind
// Unknown: they mean nothing, but they are how far the reader has come.
func (t *Tail) next(ctx context.Context) (*kgo.Record, Kind, error) {
	for {
		for len(t.pending) > 0 {
			rec := t.pending[0]
			t.pending = t.pending[1:]
			if rec.Attrs.IsControl() {
				return rec, Unknown, nil
			}
			kind, name := KindOf(rec.Key)
			if name != t.log.Name {
				kind = Unknown
			}
			return rec, kind, nil
		}
		fs := t.cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			return nil, Unknown, fmt.Errorf("read %s: %w", t.log.Topic, err)
		}
		for _, e := range fs.Errors() {
			var lost *kgo.ErrDataLoss
			if errors.As(e.Err, &lost) {
				return nil, Unknown, fault.Wrap(e.Err, fault.CheckpointForked, "read %s: the log ends before what was read", t.log.Topic)
			}
			return nil, Unknown, fmt.Errorf("read %s: %w", t.log.Topic, e.Err)
		}
		t.pending = fs.Records()
	}
}

// readState folds records into a State until the stop function says so.
func (t *Tail) readState(ctx context.Context, stop func(*kgo.Record, Kind) (bool, error)) (State, error) {
	var st reading
	for {
		rec, kind, err := t.next(ctx)
		if err != nil {
			return State{}, err
		}
		if err := st.add(rec, kind, t.log.Topic); err != nil {
			return State{}, err
		}
		done, err := stop(rec, kind)
		if err != nil {
			return State{}, fault.Wrap(err, fault.CheckpointCorrupt, "read %s", t.log.Topic)
		}
		if done && st.fork != nil && !t.log.Tolerant {
			return State{}, st.fork
		}
		if done {
			return st.State, nil
		}
	}
}

func (st *reading) add(rec *kgo.Record, kind Kind, topic string) error {
	switch kind {
	case Lane:
		c, err := Decode(rec)
		if err != nil {
			return fault.Wrap(err, fault.CheckpointCorrupt, "read %s", topic)
		}
		switch last := st.Last; {
		case c.Rebased:
			st.fork = nil
		case last != nil && c.Seq <= last.Seq:
			st.fork = fault.New(fault.CheckpointForked, "checkpoint at offset %d of %s has seq %d, the one at offset %d before it has %d",
				rec.Offset, topic, c.Seq, st.LastOffset, last.Seq)
		case last != nil && c.Pos.Timeline == last.Pos.Timeline && c.before(last):
			st.fork = fault.New(fault.CheckpointForked, "checkpoint %d at offset %d of %s is at %s, %d before it was at %s",
				c.Seq, rec.Offset, topic, c.Pos, last.Seq, last.Pos)
		}
		st.Last, st.LastOffset = &c, rec.Offset
		st.SessionNo = max(st.SessionNo, c.SessionNo)
	case Init:
		i, err := DecodeIntent(rec)
		if err != nil {
			return fault.Wrap(err, fault.CheckpointCorrupt, "read %s", topic)
		}
		st.Intent = &i
	}
	return nil
}

// Await blocks until the checkpoint with this session and seq is read. Any
// record of another session before it means that we were taken over: Fenced.
// The deadline of ctx gives ReadBackTimeout.
func (t *Tail) Await(ctx context.Context, session string, seq uint64) error {
	for {
		rec, kind, err := t.next(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return fault.Wrap(err, fault.ReadBackTimeout, "read back checkpoint %d", seq)
		case err != nil:
			return err
		}
		switch kind {
		case Session:
			b, err := DecodeBarrier(rec)
			if err != nil || b.SessionID != session {
				return fault.New(fault.Fenced, "session %s wrote a barrier at offset %d", b.SessionID, rec.Offset)
			}
		case Lane:
			c, err := Decode(rec)
			switch {
			case err != nil:
				return fault.Wrap(err, fault.CheckpointCorrupt, "read back checkpoint %d", seq)
			case c.SessionID != session:
				return fault.New(fault.Fenced, "session %s wrote checkpoint %d at offset %d", c.SessionID, c.Seq, rec.Offset)
			case c.Seq == seq:
				return nil
			case c.Seq > seq:
				return fault.New(fault.CheckpointForked, "read back checkpoint %d while waiting for %d", c.Seq, seq)
			}
		}
	}
}
