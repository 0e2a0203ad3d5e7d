// Package breaker keeps a relay from hammering a Kafka that cannot be reached.
//
// Its job is one Breaker around the opening of Kafka sessions, made of
// gobreaker. Closed, it lets every attempt pass. After Failures of them in a
// row it opens, and nobody is let through for Reset. Then it is half-open: it
// probes Kafka by itself, with something much cheaper than a session, and
// Successes probes in a row close it. One that fails opens it again.
//
// Invariants: no session is opened unless the breaker is closed, so nothing is
// fenced and nothing written to find out whether Kafka is there. It is the
// breaker that probes (Run), not whoever wants a session: a session is opened
// once, so gobreaker would count one success and never close; and a standby,
// which opens none, has to get ready again too. What counts is a failure of
// the connection: a class Retry code of Kafka's range. Being fenced is none,
// being stopped is none, and neither is what a person has to decide, which
// passes through as it is.
//
// It leaves to others what to do while it is open (internal/relay: hold the
// slot, and offer it to replicas that may be better off), what a probe is, the
// backoff between attempts while it is closed, and how it is shown.
package breaker

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/sony/gobreaker/v2"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// State of a breaker, as people see it.
type State string

// The states.
const (
	Closed   State = "closed"
	HalfOpen State = "half-open"
	Open     State = "open"
)

// Options are what a breaker is given by its owner.
type Options struct {
	Name string // in log and metrics
	// Probe asks Kafka for a sign of life. It bounds itself in time, and its
	// errors carry a fault.Code.
	Probe func(ctx context.Context) error
	// OnChange is told each change. It must not call Do. May be nil.
	OnChange func(Status)
	Log      zerolog.Logger
	Metrics  *Metrics
}

// Breaker is one circuit breaker. Its methods may be called from any goroutine.
type Breaker struct {
	cfg   Config
	opts  Options
	cb    *gobreaker.CircuitBreaker[struct{}]
	lines lines

	// gobreaker changes its state when it is asked, and tells so with its own
	// lock held. What is shown is this copy: looking must change nothing.
	mu      sync.Mutex
	status  Status
	cause   *fault.Error  // the newest failure, which the next opening is due to
	changed chan struct{} // closed and replaced at each change
}

// New returns a closed breaker. Without Run it opens and never closes.
func New(cfg Config, opts Options) *Breaker {
	b := &Breaker{
		cfg: cfg.Defaults(), opts: opts, changed: make(chan struct{}),
		status: Status{State: Closed, Since: time.Now()},
	}
	b.lines.log = opts.Log.With().Str("component", "breaker").Str("breaker", opts.Name).Logger()
	b.cb = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        opts.Name,
		MaxRequests: uint32(b.cfg.Successes),
		Timeout:     b.cfg.Reset,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= uint32(b.cfg.Failures) },
		IsExcluded:  func(err error) bool { var u uncounted; return errors.As(err, &u) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			b.change(State(to.String()))
		},
	})
	opts.Metrics.start(opts.Name)
	return b
}

// uncounted marks an outcome that says nothing about the connection.
type uncounted struct{ error }

// Failure tells whether an error says that Kafka could not be reached or could
// not serve: one that waiting may cure.
func Failure(err error) bool {
	c := fault.CodeOf(err)
	return c.Class == fault.Retry && strings.HasPrefix(c.ID, "OBX-5") && c != fault.Fenced
}

// Do runs f, which opens a session, if the breaker is closed. Its error is
// returned as it is, except for the one that opens the breaker: that one, and
// any call while it is not closed, is answered with fault.BreakerOpen, which
// names the cause.
func (b *Breaker) Do(ctx context.Context, f func() error) error {
	if st := b.Status(); st.State != Closed {
		return st.Err()
	}
	var err error
	_, said := b.cb.Execute(func() (struct{}, error) {
		err = f()
		if err != nil && (ctx.Err() != nil || !Failure(err)) {
			return struct{}{}, uncounted{err}
		}
		b.blame(err)
		return struct{}{}, err
	})
	st := b.Status()
	switch {
	case errors.Is(said, gobreaker.ErrOpenState), errors.Is(said, gobreaker.ErrTooManyRequests):
		return st.Err() // somebody else's failure came in between
	case err != nil && st.State != Closed && ctx.Err() == nil && Failure(err):
		return st.Err()
	}
	return err
}

// Await returns nil once the breaker is closed. It returns fault.BreakerOpen
// when a probe fails meanwhile, and the cause of ctx when that ends.
func (b *Breaker) Await(ctx context.Context) error {
	first, changed := b.look()
	for st := first; st.State != Closed; st, changed = b.look() {
		if st.Opened > first.Opened {
			return st.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Run probes Kafka whenever the breaker has been open for long enough, until
// ctx ends. It returns nil.
func (b *Breaker) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		st, changed := b.look()
		var due <-chan time.Time
		if st.State != Closed {
			due = time.After(time.Until(st.RetryAt))
		}
		select {
		case <-due:
			b.try(ctx)
		case <-changed:
		case <-ctx.Done():
		}
	}
	return nil
}

// try probes until the breaker is closed or open.
func (b *Breaker) try(ctx context.Context) {
	for range b.cfg.Successes {
		_, err := b.cb.Execute(func() (struct{}, error) {
			err := b.opts.Probe(ctx)
			if err != nil && ctx.Err() != nil {
				return struct{}{}, uncounted{err}
			}
			if f := (*fault.Error)(nil); errors.As(err, &f) && f.Code.Class != fault.Retry {
				// Nothing that waiting cures. The session says it better,
				// and halts.
				return struct{}{}, nil
			}
			b.blame(err)
			return struct{}{}, err
		})
		if err != nil {
			return
		}
	}
}

func (b *Breaker) blame(err error) {
	if err == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cause = fault.As(err)
}

// change is called by gobreaker, in the goroutine whose request it was.
func (b *Breaker) change(to State) {
	b.mu.Lock()
	from := b.status
	now := time.Now()
	st := Status{State: to, Since: now, Opened: from.Opened, Cause: b.cause, RetryAt: from.RetryAt}
	switch to {
	case Open:
		st.Opened++
		// gobreaker's time is up when it is exceeded, and it looked at the
		// clock before us.
		st.RetryAt = now.Add(b.cfg.Reset + time.Millisecond)
	case Closed:
		st.Cause, st.RetryAt, b.cause = nil, time.Time{}, nil
	}
	b.status = st
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()

	b.opts.Metrics.changed(b.opts.Name, to)
	if b.opts.OnChange != nil {
		b.opts.OnChange(st)
	}
	b.lines.change(from, st) // last: who acts on the line finds everything else in step
}

// Status returns what the breaker is now.
func (b *Breaker) Status() Status {
	st, _ := b.look()
	return st
}

func (b *Breaker) look() (Status, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status, b.changed
}
