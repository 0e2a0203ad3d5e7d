package consumer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
)

// transformWorker calls Config.Transform.
type transformWorker struct {
	parser
	c        *Consumer
	refusals *refusals
	tally    *tally // of durations; what became of events counts once committed
	ev       Event
}

// event transforms one event, trying again in place. Its error means that the
// batch must not be committed.
func (w *transformWorker) event(ctx context.Context, rec *kgo.Record) result {
	ev, cfg := &w.ev, &w.c.cfg
	w.parse(rec, ev)
	switch {
	case ev.bad != "":
		return w.letter(rec, failure{reason: dlq.Decode, code: codeHeader, text: "header " + ev.bad + " cannot be read"})
	case ev.group != "" && ev.group != cfg.Group:
		return result{skip: skipGroup}
	case ev.foreign && cfg.Foreign == LetterForeign:
		return w.letter(rec, failure{reason: dlq.Decode, code: codeForeign, text: "the record was not written by a relay"})
	}
	if r := w.refusals.of(rec); r.err != nil {
		return w.letter(rec, failure{reason: dlq.Handler, code: codeRefused, tries: ev.Attempt, err: r.err})
	}
	var first time.Time
	for {
		start := time.Now()
		out, err := w.call(ctx, ev)
		w.tally.handled(time.Since(start), false)
		switch {
		case err == nil:
			return result{out: out, skip: -1, ok: true}
		case ctx.Err() != nil:
			return result{skip: -1, err: ctx.Err()}
		case errors.Is(err, ErrSkip):
			return result{skip: skipInbox}
		}
		if first.IsZero() {
			first = start
		}
		var (
			stack     *PanicError
			permanent *permanentError
			later     *laterError
		)
		f := failure{reason: dlq.Handler, code: codeGaveUp, tries: ev.Attempt, first: first, err: err}
		if errors.As(err, &stack) {
			w.c.log.Error("transform panicked", append(where(ev), slog.Any("panic", stack.Value), slog.String("stack", string(stack.Stack)))...)
			f.code = codePanic
		}
		if errors.As(err, &permanent) {
			f.code = codePermanent
			return w.letter(rec, f)
		}
		if ev.Attempt >= cfg.Attempts {
			return w.letter(rec, f)
		}
		d := cfg.Backoff(ev.Attempt)
		if errors.As(err, &later) {
			d = later.after
		}
		w.c.metrics.retries.WithLabelValues(retryInPlace).Inc()
		if !sleep(ctx, d) {
			return result{skip: -1, err: ctx.Err()}
		}
		ev.Attempt++
	}
}

func (w *transformWorker) call(ctx context.Context, ev *Event) (out []*kgo.Record, err error) {
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
	return w.c.cfg.Transform(ctx, *ev)
}

// letter is part of the transaction, like any other result.
func (w *transformWorker) letter(rec *kgo.Record, f failure) result {
	ev, cfg := &w.ev, &w.c.cfg
	if cfg.DeadLetterTopic == "" {
		return result{skip: -1, err: &GaveUpError{Topic: ev.Topic, Partition: ev.Partition, Offset: ev.Offset, ID: ev.ID, Attempts: f.tries, Err: f.cause()}}
	}
	l := cfg.letterOf(rec, ev, f, time.Now())
	w.c.log.Warn("event becomes a dead letter", append(where(ev), slog.String("reason", string(f.reason)), slog.String("code", f.code), slog.String("error", l.Message))...)
	limit := cmp.Or(w.refusals.of(rec).limit, cfg.MaxLetterBytes)
	return result{out: []*kgo.Record{l.Record(cfg.DeadLetterTopic, limit)}, skip: -1, reason: f.reason}
}
