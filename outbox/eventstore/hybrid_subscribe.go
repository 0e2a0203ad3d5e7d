package eventstore

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// subscription is one Subscribe of a Hybrid. It is used by one goroutine.
//
// The invariant: exactly the events at or below floor and those in seen have
// been delivered. Both sources are held against it, so it does not matter
// where an event comes from, how often, or in which order the two were read.
type subscription struct {
	h      *Hybrid
	handle Handler
	waker  *waker
	floor  place
	seen   map[place]struct{} // above floor

	retry   time.Duration
	nextTry time.Time // when to try Kafka again
}

func (s *subscription) run(ctx context.Context) error {
	defer s.waker.close()
	for {
		cl, err := s.fromDatabase(ctx)
		if err != nil {
			return err
		}
		s.h.log.Info("subscription reads from Kafka", "position", s.floor.String())
		why, err := s.fromKafka(ctx, cl)
		cl.Close()
		if err != nil {
			return err
		}
		s.nextTry = time.Now().Add(s.retry)
		s.retry = min(2*s.retry, longestRetry)
		s.h.log.Warn("subscription reads from the database", "why", why, "position", s.floor.String(), "seen", len(s.seen))
	}
}

func (s *subscription) delivered(at place) bool {
	_, seen := s.seen[at]
	return seen || !s.floor.less(at)
}

// fromDatabase delivers from the database until it has caught up with Kafka,
// and returns a client that goes on from there.
func (s *subscription) fromDatabase(ctx context.Context) (*kgo.Client, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var probes chan *meeting // nil: nobody is asking Kafka
	defer func() {
		if probes != nil {
			cancel(nil)
			<-probes
		}
	}()
	var at *meeting // nil: not agreed yet
	pause := hiddenRetry
	for {
		full, horizon, err := s.page(ctx)
		if err != nil {
			return nil, err
		}
		if full {
			continue
		}
		if at != nil && horizon >= at.xmax {
			return s.h.consume(at)
		}
		if at == nil && probes == nil && !time.Now().Before(s.nextTry) {
			probes, pause = s.h.probe(ctx), hiddenRetry
		}
		if at == nil && probes == nil {
			if err := s.waker.wait(ctx, s.floor); err != nil {
				return nil, err
			}
			continue
		}
		// The answer, or the end of the transactions that were open at it,
		// brings no NOTIFY.
		t := time.NewTimer(pause)
		select {
		case m := <-probes:
			probes = nil
			if at = m; m != nil {
				s.h.log.Debug("subscription meets Kafka", "below", m.xmax)
			} else {
				s.nextTry = time.Now().Add(s.retry)
				s.retry = min(2*s.retry, longestRetry)
			}
		case <-t.C:
			pause = min(2*pause, s.h.db.cfg.Tick)
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// page delivers one page. The floor rises with each event, and to the horizon
// at the end: there is nothing more below that.
func (s *subscription) page(ctx context.Context) (full bool, horizon uint64, err error) {
	events, horizon, err := s.h.db.nextPatiently(ctx, s.floor)
	if err != nil {
		return false, 0, err
	}
	for _, ev := range events {
		if !s.delivered(ev.at) {
			if err := deliver(ctx, s.handle, ev.Recorded); err != nil {
				return false, 0, err
			}
		}
		delete(s.seen, ev.at)
		s.floor = ev.at
	}
	if len(events) == pageSize {
		return true, horizon, nil
	}
	s.raise(horizon)
	return false, horizon, nil
}

// raise lifts the floor below a transaction: everything under it is delivered.
func (s *subscription) raise(xid uint64) {
	to := place{xid: xid} // seq begins at 1
	if !s.floor.less(to) {
		return
	}
	s.floor = to
	for at := range s.seen {
		if at.less(to) {
			delete(s.seen, at)
		}
	}
}

// meeting is where the database hands over to Kafka. Whatever lies before the
// offsets was visible in Kafka when they were asked for, so it had committed
// before the snapshot that was taken after that, so its transaction is below
// xmax. Once the database has been read up to a horizon of at least xmax, all
// of it is delivered, and the rest is behind the offsets.
type meeting struct {
	offsets map[string]map[int32]kgo.Offset
	xmax    uint64
}

// probeTimeout bounds one look at Kafka. The database delivers meanwhile.
const probeTimeout = 5 * time.Second

// probe looks for a meeting. The channel yields once; nil means that Kafka
// does not answer, or not as it should.
func (h *Hybrid) probe(ctx context.Context) chan *meeting {
	answer := make(chan *meeting, 1)
	go func() {
		m, err := h.meet(ctx)
		if err != nil && ctx.Err() == nil {
			h.log.Info("subscription stays with the database", "error", err)
		}
		answer <- m
	}()
	return answer
}

func (h *Hybrid) meet(ctx context.Context) (*meeting, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cl, err := kgo.NewClient(h.cfg.Opts...)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, h.cfg.Topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the offsets: %w", err)
	}
	m := &meeting{offsets: map[string]map[int32]kgo.Offset{}}
	ends.Each(func(o kadm.ListedOffset) {
		if m.offsets[o.Topic] == nil {
			m.offsets[o.Topic] = map[int32]kgo.Offset{}
		}
		m.offsets[o.Topic][o.Partition] = kgo.NewOffset().At(o.Offset)
	})
	snapshot, err := h.db.horizon(ctx)
	if err != nil {
		return nil, err
	}
	m.xmax = snapshot.xmax
	return m, nil
}

func (h *Hybrid) consume(m *meeting) (*kgo.Client, error) {
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), h.cfg.Opts...),
		kgo.ConsumePartitions(m.offsets),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // what is gone is the database's to give
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	if err != nil {
		return nil, fmt.Errorf("make a consumer: %w", err)
	}
	return cl, nil
}
