package relay

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// keepAlive is how often a checkpoint is written when nothing at all happens:
// brokers forget a silent transactional id after 7 days and a silent producer
// id after one.
const keepAlive = time.Hour

// errDrained ends the source after a drain; it is no failure.
var errDrained = errors.New("drained")

// session is one life between taking the slot and losing anything.
type session struct {
	*Relay
	log  zerolog.Logger
	src  Source
	sink Sink
	info sink.Session

	buf    *gathering
	triage *triage
	last   checkpoint.Checkpoint // the newest one that was read back

	held     atomic.Pointer[[]dlq.Held] // keys that are parked, for follow
	released chan release               // what may go on, for pump
}

// session runs one session. When soft ends, what is under way is finished and
// the slot let go; when hard ends, everything stops at once.
func (r *Relay) session(soft, hard context.Context) error {
	// Waiting for the slot has nothing to drain.
	src, err := r.OpenSource(soft)
	if err != nil {
		return err
	}
	s := &session{Relay: r, src: src, log: r.Log}
	r.Metrics.holds()
	r.state(Starting, nil)
	g, ctx := errgroup.WithContext(hard)
	srcCtx, stopSource := context.WithCancelCause(ctx)
	g.Go(fault.Guard(func() error { return src.Run(srcCtx) }))
	g.Go(fault.Guard(func() error {
		if err := s.run(ctx, soft); err != nil {
			return err // the group stops the other; doing it here could hide the error
		}
		stopSource(errDrained)
		return nil
	}))
	return undrained(g.Wait())
}

func undrained(err error) error {
	if errors.Is(err, errDrained) {
		return nil
	}
	return err
}

func (s *session) run(ctx, soft context.Context) error {
	drain := soft.Done()
	var err error
	s.sink, s.info, err = s.openSink(ctx, soft)
	if err != nil {
		return err
	}
	defer s.sink.Close()
	if s.Refill != nil {
		return s.refill(ctx, soft)
	}
	st := s.src.State()
	accept := s.AcceptGap
	if s.accepted {
		accept = nil
	}
	from, err := reconcile(st, s.info, accept)
	if err != nil {
		return err
	}
	translator, err := s.NewTranslator(st, s.info)
	if err != nil {
		return err
	}
	s.last = s.next(from.base, st)
	s.buf = newGathering(s.Limits, from.base)
	s.buf.metrics = s.Metrics
	s.opened, s.triage, s.released = s.info, s.newTriage(from.base, s.info), make(chan release, 1)
	s.publishHeld()
	s.log = s.log.With().Uint64("session", s.info.No).Logger()
	line := s.log.Info().Str("lsn", from.base.Pos.String()).Str("slot_lsn", st.Slot.ConfirmedLSN.String()).
		Uint64("checkpoint", from.base.Seq).Bool("degraded", s.info.Degraded).Str("host", st.Host)
	if !st.Freed.IsZero() {
		took := time.Since(st.Freed)
		line.Dur("takeover", took)
		s.Metrics.tookOver(took)
	}
	line.Msg("streaming")
	if from.override != "" {
		// The audit record comes before the first row that depends on it.
		s.log.Warn().Str("override", from.override).Msg("override accepted")
		if err := s.deliver(ctx, &group{pos: from.base.Pos, lastTx: from.base.LastTx}, from.override); err != nil {
			return err
		}
		s.accepted = true
	}
	if err := s.makeRoom(ctx); err != nil {
		return err
	}
	s.src.Resume(from.resume)
	s.Metrics.guarantee(s.info.Degraded)
	s.Metrics.streams(s.buf, from.base, from.base.Host != s.last.Host || from.base.PID != s.last.PID)
	s.state(Streaming, nil)
	g, gctx := errgroup.WithContext(ctx)
	gatherCtx, stopGathering := context.WithCancelCause(gctx)
	g.Go(fault.Guard(func() error { return s.gather(gatherCtx, translator) }))
	if s.Letters != nil && s.Letters.Look != nil {
		g.Go(fault.Guard(func() error { return s.follow(gatherCtx) }))
	}
	if s.Paused != nil {
		g.Go(fault.Guard(func() error { return s.heed(gatherCtx) }))
	}
	g.Go(fault.Guard(func() error {
		if err := s.pump(gctx, drain); err != nil {
			return err // as above
		}
		stopGathering(errDrained)
		return nil
	}))
	return undrained(g.Wait())
}

// openSink tries until Kafka can be reached, while the source holds the slot
// and keeps Postgres informed. With the breaker open it only holds. It returns,
// and so gives the slot back, at each moment the breaker opens: another replica
// may reach Kafka where this one cannot.
func (s *session) openSink(ctx, soft context.Context) (Sink, sink.Session, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Nothing is open yet, so a stop need not wait.
	defer context.AfterFunc(soft, func() { cancel(errDrained) })()
	for attempt := 1; ; attempt++ {
		if _, err := s.hold(ctx, nil, Starting); err != nil {
			return nil, sink.Session{}, err
		}
		if f := s.open(); f != nil {
			s.state(Backoff, f)
			closed := s.Metrics.waitsForBreaker()
			err := s.Breaker.Await(ctx)
			closed()
			if err != nil {
				return nil, sink.Session{}, err
			}
			s.state(Starting, nil)
		}
		var snk Sink
		var info sink.Session
		err := s.Breaker.Do(ctx, func() (err error) {
			if snk, info, err = s.OpenSink(ctx); err != nil && ctx.Err() == nil {
				s.refused(err, attempt)
			}
			return err
		})
		if err == nil {
			return snk, info, nil
		}
		if ctx.Err() != nil {
			return nil, sink.Session{}, context.Cause(ctx)
		}
		code := fault.CodeOf(err)
		if code.Class != fault.Retry || code == fault.Fenced || code == fault.BreakerOpen {
			return nil, sink.Session{}, err
		}
		if !breaker.Failure(err) && attempt >= sinkAttempts {
			return nil, sink.Session{}, err
		}
		s.state(Backoff, fault.As(err))
		done := s.Metrics.waitsForKafka()
		select {
		case <-time.After(s.pause(attempt)):
			done()
		case <-ctx.Done():
			done()
			return nil, sink.Session{}, context.Cause(ctx)
		}
	}
}

// refused logs one attempt, before the breaker draws its conclusion.
func (s *session) refused(err error, attempt int) {
	f := fault.As(err)
	if f.Code.Class != fault.Retry || f.Code == fault.Fenced {
		return // the end of the session says it
	}
	s.log.Warn().Fields(f.Fields()).Err(err).Int("attempt", attempt).Msg("Kafka session not opened, holding the slot")
}

// open is why the breaker lets nobody through, or nil.
func (r *Relay) open() *fault.Error {
	if err := r.Breaker.Status().Err(); err != nil {
		return fault.As(err)
	}
	return nil
}

// next is the checkpoint that follows c, but for its position and counts.
func (s *session) next(c checkpoint.Checkpoint, st replication.State) checkpoint.Checkpoint {
	host, _ := os.Hostname()
	c.SessionID, c.SessionNo = s.info.ID, s.info.No
	c.Source = checkpoint.Source{
		SystemID: st.SystemID, Database: st.Database, Slot: st.Slot.Name, Publication: s.Publication,
		ClusterID: s.info.ClusterID, TopicID: s.info.TopicID,
	}
	c.OptionsHash, c.Override, c.Rebased = st.OptionsHash, "", false
	c.Host, c.PID, c.Version = host, os.Getpid(), s.Version
	return c
}

// decodeSample: one part in so many is measured, or measuring would be a good
// share of what transactions of one row cost.
const decodeSample = 16

// gather reads, translates and collects, while pump commits.
func (s *session) gather(ctx context.Context, t RowTranslator) error {
	for n := 0; ; n++ {
		tx, err := s.src.Next(ctx)
		if err != nil {
			return err
		}
		if tx.Idle {
			s.buf.idle(tx.EndLSN, tx.ReplyAsked)
			continue
		}
		var began time.Time
		if n%decodeSample == 0 {
			began = time.Now()
		}
		records, letters, err := t.Translate(ctx, tx, make([]*kgo.Record, 0, len(tx.Rows)))
		if err != nil {
			return err
		}
		if !began.IsZero() {
			s.Metrics.decoded(time.Since(began))
		}
		bytes := 0
		for _, r := range records {
			bytes += size(r)
		}
		if err := s.buf.add(ctx, tx, records, bytes, letters); err != nil {
			return err
		}
	}
}

// pump delivers group after group. It returns nil when it was drained.
func (s *session) pump(ctx context.Context, drain <-chan struct{}) error {
	idle := time.Now().Add(s.Heartbeat)
	for {
		if _, err := s.hold(ctx, drain, Streaming); err != nil {
			return err
		}
		select {
		case <-drain:
			crash.Point(crash.DrainStarted)
			return nil
		case plan := <-s.released:
			if err := s.release(ctx, plan); err != nil {
				return err
			}
		default:
		}
		g, err := s.buf.take(ctx, drain, idle)
		if err != nil {
			return err
		}
		if g == nil {
			continue // told to drain, or to look round
		}
		if drained, err := s.hold(ctx, drain, Streaming); err != nil || drained {
			return err // what was taken comes again
		}
		now := time.Now()
		if g.empty() && g.pos == s.last.Pos && now.Sub(s.last.Time) < keepAlive {
			// The WAL has not moved. The stream has reached the checkpoint that
			// this session began with, witness and all, so the slot may be told
			// where its predecessor did not come to it; a server that wants to
			// stop waits for that.
			s.src.Confirm(g.pos.EndLSN)
			s.landed()
			idle = now.Add(s.Heartbeat)
			continue
		}
		if err := s.triage.sort(ctx, g); err != nil {
			return err
		}
		if err := s.deliver(ctx, g, ""); err != nil {
			return err
		}
		s.landed()
		idle = time.Now().Add(s.Heartbeat)
		if wait := s.MinCommitInterval - time.Since(now); wait > 0 {
			select {
			case <-time.After(wait):
			case <-drain:
			case <-ctx.Done():
			}
		}
	}
}

// landed notes that what was taken is delivered, or was nothing to deliver.
func (s *session) landed() {
	s.buf.landed()
	s.Metrics.landed()
}
