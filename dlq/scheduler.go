package dlq

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Scheduler replays letters when their time has come. One that is refused is
// deferred by the Schedule, with a mark, and in the end left to a person. It
// takes the transactional id only when something is due, so a scheduler that
// has nothing to do disturbs nobody; and it keeps no more than a line for each
// letter that waits for its time.
type Scheduler struct {
	Replayer *Replayer
	Schedule Schedule
	Tick     time.Duration // between two looks
	// Ordered holds a letter back while an earlier one of its key is open, as
	// is needed where keys are parked. It costs a reading of all letters for
	// each pass in which something is due.
	Ordered bool
	// Reach is asked before each look whether there is a Kafka; nil: not. The
	// client itself does not hear of the end of a context while it connects.
	Reach func(context.Context) error
	// Active is asked before each look; nil: always. Replicas that are not the
	// leader leave the letters to the one that is.
	Active func() bool
	Log    zerolog.Logger

	read map[int32]int64 // letters read up to
	wait waiting
}

// Pass is what one look has come to.
type Pass struct {
	Waiting  int // letters with a time of their own, not due yet
	Replayed int
	Deferred int
	GivenUp  int // left to a person
	Refused  int // held back behind another, or gone
	Next     time.Time
}

// Run looks and replays until ctx ends. Failures are logged and tried again
// after 1, 2, 4, 8, 10, 10 ... seconds; what asks for a person's decision is
// returned.
func (s *Scheduler) Run(ctx context.Context) error {
	failures := 0
	for {
		pause := cmp.Or(s.Tick, DefaultTick)
		if s.Active == nil || s.Active() {
			p, err := s.once(ctx)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil && fault.CodeOf(err).Class == fault.Halt && fault.CodeOf(err) != fault.Unclassified:
				return err
			case err != nil:
				pause = min(firstPatience<<min(failures, 10), mostPatience)
				failures++
				s.Log.Warn().Err(err).Str("code", fault.CodeOf(err).ID).Dur("pause", pause).Msg("dead letters wait")
			default:
				failures = 0
				if n := p.Replayed + p.Deferred + p.GivenUp + p.Refused; n > 0 {
					s.Log.Info().Int("replayed", p.Replayed).Int("deferred", p.Deferred).Int("given_up", p.GivenUp).
						Int("refused", p.Refused).Int("waiting", p.Waiting).Msg("dead letters retried")
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (s *Scheduler) once(ctx context.Context) (Pass, error) {
	if s.Reach != nil {
		if err := s.Reach(ctx); err != nil {
			return Pass{}, err
		}
	}
	return s.Once(ctx)
}

// DefaultTick is how often the scheduler looks.
const DefaultTick = 10 * time.Second

// Once reads what is new, and replays what is due.
func (s *Scheduler) Once(ctx context.Context) (Pass, error) {
	p, due, err := s.look(ctx, time.Now())
	if err != nil || len(due) == 0 {
		return p, err
	}
	places := map[Spot]waiter{}
	refs := make([]Ref, len(due))
	for i, w := range due {
		refs[i] = w.Ref
		places[w.spot()] = w
	}
	SortRefs(refs)
	err = s.Replayer.Run(ctx, Job{
		Action: Replayed, Defer: &s.Schedule,
		Report: func(r Result) {
			at := Spot{Partition: r.Where.Partition, Offset: r.Where.Offset}
			w := places[at]
			delete(places, at)
			switch r.Outcome {
			case OutcomeDone:
				p.Replayed++
			case OutcomeDeferred:
				if r.NextAt.IsZero() {
					p.GivenUp++
					break
				}
				p.Deferred++
				w.at = r.NextAt
				heap.Push(&s.wait, w)
			case OutcomeLater:
				if w.at = r.NextAt; !w.at.IsZero() {
					heap.Push(&s.wait, w)
				}
			case OutcomeRefused:
				p.Refused++
				if r.Err.Code != fault.LetterGone { // held back: the one before it comes first
					wait, _ := s.Schedule.Wait(1)
					w.at = time.Now().Add(max(wait, DefaultTick))
					heap.Push(&s.wait, w)
				}
			}
		},
	}, refs)
	// What was not tried is due still.
	for _, w := range places {
		heap.Push(&s.wait, w)
	}
	p.count(s.wait)
	return p, err
}

// look reads new letters and marks, and takes out what is due. A letter is
// judged again behind the fence: what is kept here may be old.
func (s *Scheduler) look(ctx context.Context, now time.Time) (Pass, []waiter, error) {
	if s.read == nil {
		s.read = map[int32]int64{}
	}
	var fresh []waiter
	from := map[int32]int64{}
	for p, at := range s.read {
		from[p] = at
	}
	err := s.Replayer.View.lettersFrom(ctx, from, func(i *Item) error {
		if i.Status.Open && !i.Status.NextAt.IsZero() && i.Reason != Parked { // parked ones are the relay's
			w := waiter{Ref: RefOf(i), at: i.Status.NextAt}
			if len(i.Key) > 0 {
				w.key = keyOf(i.Topic, i.Key)
			}
			fresh = append(fresh, w)
		}
		return nil
	}, func(at Spot, err error) {
		s.Log.Debug().Err(err).Int32("partition", at.Partition).Int64("offset", at.Offset).Msg("no letter")
	})
	if err != nil {
		return Pass{}, nil, err
	}
	// Only now: a reading that broke off is done again as a whole.
	s.read = from
	for _, w := range fresh {
		heap.Push(&s.wait, w)
	}
	var due []waiter
	for len(s.wait) > 0 && !s.wait[0].at.After(now) && len(due) < maxDue {
		due = append(due, heap.Pop(&s.wait).(waiter))
	}
	due = s.inTurn(due)
	if s.Ordered && len(due) > 0 {
		if due, err = s.inOrder(ctx, due, now); err != nil {
			return Pass{}, nil, err
		}
	}
	var p Pass
	p.count(s.wait)
	return p, due, nil
}

// inTurn puts those back that would overtake an earlier letter of their topic
// and key, to come when that one does.
func (s *Scheduler) inTurn(due []waiter) []waiter {
	if len(due) == 0 {
		return nil
	}
	keys, first := map[markID]bool{}, map[markID]waiter{}
	for _, w := range due {
		keys[w.key] = true
	}
	for _, w := range s.wait {
		if w.key == (markID{}) || !keys[w.key] {
			continue
		}
		if f, ok := first[w.key]; !ok || w.before(f) {
			first[w.key] = w
		}
	}
	return slices.DeleteFunc(due, func(w waiter) bool {
		f, ok := first[w.key]
		if !ok || w.before(f) {
			return false
		}
		w.at = f.at
		heap.Push(&s.wait, w)
		return true
	})
}

// inOrder puts those back that would overtake any open letter of their key,
// also one that is left to a person, or parked.
func (s *Scheduler) inOrder(ctx context.Context, due []waiter, now time.Time) ([]waiter, error) {
	chosen := map[Spot]bool{}
	for _, w := range due {
		chosen[w.spot()] = true
	}
	order := Order{All: true}
	err := s.Replayer.View.Letters(ctx, func(i *Item) error {
		if i.Status.Open {
			order.Add(i, chosen[Spot{Partition: i.Where.Partition, Offset: i.Where.Offset}])
		}
		return nil
	}, func(Spot, error) {}) // told by look
	if err != nil {
		for _, w := range due {
			heap.Push(&s.wait, w)
		}
		return nil, err
	}
	overtaking := order.Overtaking()
	return slices.DeleteFunc(due, func(w waiter) bool {
		if !overtaking[w.Where(s.Replayer.View.Topic)] {
			return false
		}
		w.at = now.Add(cmp.Or(s.Tick, DefaultTick))
		heap.Push(&s.wait, w)
		return true
	}), nil
}

// maxDue bounds one pass; the rest is due at the next.
const maxDue = 20_000

func (p *Pass) count(w waiting) {
	p.Waiting, p.Next = len(w), time.Time{}
	if len(w) > 0 {
		p.Next = w[0].at
	}
}

// waiter is a letter whose time has not come.
type waiter struct {
	Ref
	key markID // topic and key; zero: of no order
	at  time.Time
}

func (w waiter) before(o waiter) bool {
	return cmp.Or(w.place.Compare(o.place), cmp.Compare(w.offset, o.offset)) < 0
}

func (w *waiter) spot() Spot { return Spot{Partition: w.part, Offset: w.offset} }

// waiting is a heap, the earliest first.
type waiting []waiter

func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, j int) bool { return w[i].at.Before(w[j].at) }
func (w waiting) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *waiting) Push(x any)        { *w = append(*w, x.(waiter)) }
func (w *waiting) Pop() any {
	last := len(*w) - 1
	x := (*w)[last]
	*w = (*w)[:last]
	return x
}
