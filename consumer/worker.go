package consumer

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
)

// flushEvery is how many records of a run a worker lets pass before it takes
// them out of the account and counts them: both are shared by all workers.
const flushEvery = 256

// worker calls the handler. There are Config.Concurrency of them.
type worker struct {
	parser
	c     *Consumer
	items []item // taken
	nudge uint64 // of sched, when it was last asked
	ev    Event  // scratch
	tally tally

	// One reading of the clock per event: the end of a call is the start of
	// the next, within a run or a turn. 0 is no call before.
	epoch time.Time
	now   time.Duration
}

// outcome of one record.
type outcome uint8

const (
	done  outcome = iota
	again         // after a while
	lost          // the call's context ended: as if nothing had been
)

func (w *worker) work() {
	for {
		q, r, ok := w.c.sched.take(w)
		w.now = 0
		switch {
		case !ok:
			return
		case q != nil:
			w.workKey(q)
		default:
			w.workRun(r)
		}
	}
}

// workKey handles the items that were taken from a queue, in order, up to the
// first that fails.
func (w *worker) workKey(q *keyq) {
	var (
		bytes int64
		n     int
		d     time.Duration
		what  outcome
	)
	failed, first := q.failed, q.first
	for n < len(w.items) {
		it := &w.items[n]
		w.parse(it.rec, &w.ev)
		if what, d = w.attempt(it, failed, first); what != done {
			break
		}
		it.c.settle(it.i)
		bytes += sizeOf(it.rec)
		n, failed = n+1, 0
		if w.c.sched.nudge.Load() != w.nudge {
			break
		}
	}
	w.c.sched.release(int64(n), bytes)
	w.tally.flush(w.c.metrics)
	if what == lost {
		w.c.sched.abandonKey(q, n)
		return
	}
	w.c.sched.finishKey(q, n, what == again, d, time.Now())
}

// workRun handles a run until it ends or something is more urgent.
func (w *worker) workRun(r *run) {
	s, p := w.c.sched, r.c.part
	var records, bytes int64
	for r.at < len(r.recs) && s.nudge.Load() == w.nudge {
		rec, i := r.recs[r.at], r.at
		r.recs[r.at] = nil // one that waits must not keep the others
		r.at++
		size := sizeOf(rec)
		if w.step(p, r.c, rec, i) {
			r.c.settle(i)
			records++
			bytes += size
		}
		if records == flushEvery {
			s.release(records, bytes)
			records, bytes = 0, 0
			w.tally.flush(w.c.metrics)
		}
	}
	s.release(records, bytes)
	w.tally.flush(w.c.metrics)
	s.finishRun(r)
}

// step does one record of a run; it tells whether that is done with it.
func (w *worker) step(p *part, c *chunk, rec *kgo.Record, i int) bool {
	if rec.Attrs.IsControl() {
		return true
	}
	w.parse(rec, &w.ev)
	if c.marks != nil && !w.c.admit(&w.ev, c, i, &w.tally) {
		return true
	}
	it := item{rec, c, i}
	if p.parked.Load() > 0 && w.c.sched.behind(it) {
		return false
	}
	switch what, d := w.attempt(&it, 0, time.Time{}); what {
	case done:
		return true
	case again:
		w.now = 0
		w.c.sched.park(it, time.Now(), d)
	default:
		w.c.sched.dropItems([]item{it})
	}
	return false
}

// attempt does with the event in w.ev what is to be done. failed counts the
// attempts of this delivery, the first of which was at first.
func (w *worker) attempt(it *item, failed int, first time.Time) (outcome, time.Duration) {
	ev, cfg := &w.ev, &w.c.cfg
	ctx := it.c.part.ctx
	switch {
	case ev.bad != "":
		return w.letter(ctx, it, failure{reason: dlq.Decode, code: codeHeader, text: "header " + ev.bad + " cannot be read"})
	case ev.group != "" && ev.group != cfg.Group:
		w.tally.skipped[skipGroup]++
		return done, 0
	case ev.foreign && cfg.Foreign == LetterForeign:
		return w.letter(ctx, it, failure{reason: dlq.Decode, code: codeForeign, text: "the record was not written by a relay"})
	}
	ev.Attempt = ev.failed + failed + 1
	start := w.now
	if start == 0 {
		start = time.Since(w.epoch)
	}
	err := w.call(ctx, ev)
	end := time.Since(w.epoch)
	w.tally.handled(end-start, err == nil)
	w.now = end
	switch {
	case err == nil:
		return done, 0
	case ctx.Err() != nil:
		return lost, 0
	case errors.Is(err, ErrSkip):
		w.tally.skipped[skipInbox]++
		return done, 0
	}
	return w.failed(ctx, it, err, first)
}

// call calls the handler and turns a panic into an error.
func (w *worker) call(ctx context.Context, ev *Event) (err error) {
	var end func(error)
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		if end != nil {
			end(err)
		}
	}()
	if w.c.cfg.Around != nil {
		ctx, end = w.c.cfg.Around(ctx, ev)
	}
	return w.c.cfg.Handler(ctx, *ev)
}

// failed decides what follows an error: again, or a letter.
func (w *worker) failed(ctx context.Context, it *item, err error, first time.Time) (outcome, time.Duration) {
	w.now = 0 // a letter takes its time
	ev, cfg := &w.ev, &w.c.cfg
	var (
		stack     *PanicError
		permanent *permanentError
		later     *laterError
	)
	f := failure{reason: dlq.Handler, code: codeGaveUp, tries: ev.Attempt, first: first, err: err}
	if !ev.firstAt.IsZero() {
		f.first = ev.firstAt
	}
	if errors.As(err, &stack) {
		w.c.log.Error("handler panicked", append(where(ev), slog.Any("panic", stack.Value), slog.String("stack", string(stack.Stack)))...)
		f.code = codePanic
	}
	if errors.As(err, &permanent) {
		f.code = codePermanent
		return w.letter(ctx, it, f)
	}
	if ev.Attempt >= cfg.Attempts {
		return w.letter(ctx, it, f)
	}
	d := cfg.Backoff(ev.Attempt)
	if errors.As(err, &later) {
		d = later.after
	}
	level, attrs := slog.LevelDebug, append(where(ev), slog.Int("attempt", ev.Attempt), slog.Duration("backoff", d), slog.String("error", cfg.ErrorText(err)))
	if unsaid, ok := w.c.failures.say(time.Now()); ok {
		level, attrs = slog.LevelWarn, append(attrs, slog.Int("more", unsaid))
	}
	w.c.log.Log(ctx, level, "handler failed, and is tried again", attrs...)
	if cfg.RetryTopic == "" {
		w.c.metrics.retries.WithLabelValues(retryInPlace).Inc()
		return again, d
	}
	return w.copy(ctx, it, f, d)
}

func where(ev *Event) []any {
	return []any{
		slog.String("topic", ev.Topic), slog.Int("partition", int(ev.Partition)),
		slog.Int64("offset", ev.Offset), slog.String("event_id", ev.ID),
	}
}
