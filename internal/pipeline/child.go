package pipeline

import (
	"context"
	"errors"
	"math/rand/v2"
	"os/exec"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

	"github.com/holdwall/outbox-relay/consumer"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// stableAfter is how long a child has to live before its next death counts as
// the first one.
const stableAfter = 30 * time.Second

// ChildConfig says what to run, and how long to wait for it.
type ChildConfig struct {
	Command       []string
	Environ       []string
	Timeout       time.Duration // for one event, and for any sign of life while events are outstanding
	MaxRetryAfter time.Duration // a longer retry_after_seconds is cut to this
	Window        int           // most events outstanding
	Grace         time.Duration // from the end of its input to SIGTERM, and from there to SIGKILL
	RawPayload    bool          // payloads as base64 only
	// OnState is told when a child is up and when there is none, and why.
	OnState func(up bool, why *fault.Error)
	Log     zerolog.Logger
	Metrics *Metrics
}

// Child hands events to a process that Run keeps alive.
type Child struct {
	cfg     ChildConfig
	path    string
	backoff func(deaths int) time.Duration
	// turnstile counts what is outstanding. A suspect takes all of it.
	turnstile *semaphore.Weighted

	mu      sync.Mutex
	life    *life         // nil: there is none at the moment
	changed chan struct{} // closed when life changes
	over    bool          // Run has returned
}

// NewChild finds the program. It starts nothing.
func NewChild(cfg ChildConfig) (*Child, error) {
	if len(cfg.Command) == 0 {
		return nil, fault.New(fault.CommandLine, "no command behind --").WithFix("outbox-relay pipeline -- python3 handler.py")
	}
	path, err := exec.LookPath(cfg.Command[0])
	if err != nil {
		return nil, fault.Wrap(err, fault.ChildStart, "find %s", cfg.Command[0])
	}
	cfg.Window = max(cfg.Window, 1)
	return &Child{
		cfg: cfg, path: path, backoff: backoff,
		turnstile: semaphore.NewWeighted(int64(cfg.Window)), changed: make(chan struct{}),
	}, nil
}

// backoff is 1, 2, 4, 8, 10, 10 ... seconds, less up to a quarter.
func backoff(deaths int) time.Duration {
	d := min(time.Second<<min(deaths-1, 4), 10*time.Second)
	return d - time.Duration(rand.Int64N(int64(d/4)))
}

// Run keeps a child alive until ctx ends, and then stops it in order. It
// returns an error only if the first start fails: that is a mistake in the
// command, and waiting cures none.
func (c *Child) Run(ctx context.Context) error {
	defer c.set(nil, true)
	deaths := 0
	for first := true; ; first = false {
		born := time.Now()
		l, err := c.start()
		if err != nil {
			why := fault.Wrap(err, fault.ChildStart, "start %s", c.cfg.Command[0])
			if first {
				return why
			}
			c.lost(why)
		} else {
			c.set(l, false)
			if c.cfg.OnState != nil {
				c.cfg.OnState(true, nil)
			}
			why := l.run(ctx)
			c.set(nil, false)
			if why == nil {
				return nil
			}
			if l.useful() || time.Since(born) > stableAfter {
				deaths = 0
			}
			c.lost(why)
		}
		deaths++
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.backoff(deaths)):
		}
	}
}

// lost tells that there is no child.
func (c *Child) lost(why *fault.Error) {
	c.cfg.Metrics.ended(why.Code)
	c.cfg.Log.Error().Str("component", "child").Str("code", why.Code.ID).Str("name", why.Code.Name).
		Str("why", why.Reason()).Str("hint", why.Remedy()).Err(why).Msg("child lost")
	if c.cfg.OnState != nil {
		c.cfg.OnState(false, why)
	}
}

func (c *Child) set(l *life, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life, c.over = l, over
	close(c.changed)
	c.changed = make(chan struct{})
}

var errOver = errors.New("the pipeline has ended")

// living waits until there is a child other than the one given.
func (c *Child) living(ctx context.Context, not *life) (*life, error) {
	for {
		c.mu.Lock()
		l, over, changed := c.life, c.over, c.changed
		c.mu.Unlock()
		switch {
		case over:
			return nil, errOver
		case l != nil && l != not:
			return l, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-changed:
		}
	}
}

// Handle hands one event to the child and waits for its answer.
//
// A child that dies takes all events with it that it had, and nobody knows
// which of them it died of. So they are suspects, and are handed to the next
// child one at a time, with nothing else outstanding: those that it survives
// were not to blame and have lost no attempt, and the one that it dies of alone
// is. Without this a single poisoned event would make dead letters of its
// neighbours.
func (c *Child) Handle(ctx context.Context, ev consumer.Event) error {
	weight := int64(1)
	var last *life
	for {
		if err := c.turnstile.Acquire(ctx, weight); err != nil {
			return context.Cause(ctx)
		}
		l, err := c.living(ctx, last)
		if err != nil {
			c.turnstile.Release(weight)
			return err
		}
		out, err := l.ask(ctx, ev)
		c.turnstile.Release(weight)
		switch {
		case err != nil:
			return err
		case out.why == nil:
			return out.reply.verdict(c.cfg.MaxRetryAfter)
		case out.among == 1:
			return out.why
		case out.among > 1:
			weight = int64(c.cfg.Window)
		}
		last = l // among 0: it was never handed over
	}
}
