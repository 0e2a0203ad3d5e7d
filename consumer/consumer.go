package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Consumer is one member of the group.
type Consumer struct {
	cfg     Config
	log     *slog.Logger
	sched   *sched
	metrics *metrics
	client  *kgo.Client // from Run on
	limits  limits      // likewise
	started chan struct{}
	once    sync.Once

	failures failures

	mu    sync.Mutex
	parts map[string]map[int32]*part
	end   context.CancelCauseFunc // of Run

	commitMu sync.Mutex // one commit at a time, and none while partitions go

	draining gate
	drainMu  sync.Mutex
}

// ErrTwice is a second Run of the same consumer.
var ErrTwice = errors.New("run a consumer that has run before")

// ErrStuck is a handler that did not return after its context had ended.
var ErrStuck = errors.New("handlers did not return in time")

// New checks the configuration. It connects to nothing and starts nothing.
// Registering the metrics twice panics, as prometheus does.
func New(cfg Config) (*Consumer, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	if err := kgo.ValidateOpts(cfg.options()...); err != nil {
		return nil, fmt.Errorf("configure consumer: %w", err)
	}
	c := &Consumer{
		cfg: cfg, sched: newSched(cfg.Concurrency > 1),
		log:     cfg.Logger.With(slog.String("component", "consumer"), slog.String("group", cfg.Group)),
		parts:   map[string]map[int32]*part{},
		started: make(chan struct{}),
	}
	c.metrics = newMetrics(cfg.Registerer, cfg.Group, c.sched)
	return c, nil
}

// Run joins the group and consumes until ctx ends, which is a clean stop and no
// error: what runs gets Config.DrainTimeout to end, what is done is committed,
// and the group is left. Any other end is an error. It may be called once.
func (c *Consumer) Run(ctx context.Context) error {
	first := false
	c.once.Do(func() { first = true })
	if !first {
		return ErrTwice
	}
	if c.cfg.Transform != nil {
		return c.runTransform(ctx)
	}
	// Handlers outlive ctx by the time they are given to end.
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	run, end := context.WithCancelCause(ctx)
	defer end(nil)
	c.end = end

	client, err := kgo.NewClient(append(c.cfg.options(), c.callbacks(calls)...)...)
	if err != nil {
		return fmt.Errorf("open the consumer's client: %w", err)
	}
	c.client = client
	c.limits = limitsOf(client.OptValue(kgo.RebalanceTimeout).(time.Duration), c.cfg.DrainTimeout)
	if c.limits.drain < c.cfg.DrainTimeout {
		c.log.Warn("DrainTimeout is cut in a rebalance: the client's rebalance time-out is too short for it",
			slog.Duration("drain_timeout", c.cfg.DrainTimeout), slog.Duration("cut_to", c.limits.drain))
	}
	close(c.started)

	var workers, committer sync.WaitGroup
	for range c.cfg.Concurrency {
		workers.Go(func() {
			w := &worker{c: c, parser: parser{retry: c.cfg.RetryTopic}, epoch: time.Now()}
			w.work()
		})
	}
	committer.Go(func() { c.commitOften(run) })

	c.read(run)
	committer.Wait()
	err = c.stop(&workers)
	if ctx.Err() == nil {
		err = errors.Join(context.Cause(run), err)
	}
	return err
}

// stop ends what runs, commits and leaves.
func (c *Consumer) stop(workers *sync.WaitGroup) error {
	parts := c.all()
	c.sched.revoke(parts, c.cfg.DrainTimeout, lastMoment)
	if err := c.commit(context.Background(), commitTimeout, parts); err != nil {
		c.log.Warn("commit at the end; what is not committed comes again", slog.Any("error", err))
	}
	c.forget(parts)
	c.sched.stop()

	var err error
	if n := c.sched.busy(parts); n > 0 {
		err = fmt.Errorf("stop consumer: %d %w", n, ErrStuck)
	} else {
		workers.Wait()
	}
	leave, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	c.client.AllowRebalance()
	if e := c.client.LeaveGroupContext(leave); e != nil {
		// The coordinator finds out by itself after the session time-out.
		c.log.Warn("leave the group", slog.Any("error", e))
	}
	c.client.CloseAllowingRebalance()
	return err
}

const (
	leaveTimeout  = 5 * time.Second
	commitTimeout = 10 * time.Second
)

// fail ends Run with an error. No further call begins: an event that was given
// up must not be overtaken by the next of its key.
func (c *Consumer) fail(err error) {
	c.sched.freeze()
	c.end(err)
}

// Pause lets no further call begin. Those that run go on, and the member stays
// in the group.
func (c *Consumer) Pause() { c.sched.pause() }

// Resume ends a Pause or a Drain.
func (c *Consumer) Resume() {
	c.draining.open()
	c.sched.resume()
	kick(c.sched.room)
}

// Drain takes no further records and returns when all that were taken are done
// and committed, or ctx has ended. Records of the retry topic that are not due
// are not waited for, nor, while the consumer is paused, what has not begun:
// then it ends with the calls that run. Resume goes on.
func (c *Consumer) Drain(ctx context.Context) error {
	c.drainMu.Lock()
	defer c.drainMu.Unlock()
	select {
	case <-c.started:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.draining.close(ctx); err != nil {
		return err
	}
	for !c.sched.quiet() {
		select {
		case <-c.sched.empty:
		case <-ctx.Done():
			return fmt.Errorf("drain: %d records in flight: %w", c.sched.records.Load(), ctx.Err())
		}
	}
	return c.commit(ctx, c.limits.commit, c.all())
}
