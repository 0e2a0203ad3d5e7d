package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/guard"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/live"
	"github.com/holdwall/outbox-relay/internal/page"
	"github.com/holdwall/outbox-relay/internal/relay"
	"github.com/holdwall/outbox-relay/internal/tracing"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// serveOptions are what the command line of serve adds to the settings.
type serveOptions struct {
	exitOnHalt bool
	acceptGap  string

	fingerprint string         // of the settings
	entries     []config.Entry // the settings, as they may be shown
	environ     []string       // for what the surroundings say that is no setting
}

// service is a running `serve`: the relay and its HTTP face.
type service struct {
	*parts
	state *health.State
	opts  serveOptions
	// guarantee is what the brokers allow to be promised, of the newest session.
	guarantee atomic.Value
	// alive asks whether the newest source still holds the slot. It is set and
	// used by one session after another.
	alive func(context.Context) error

	breaker *breaker.Breaker // nil: Kafka is not enabled
	guard   *guard.Guard
	commits atomic.Uint64 // Kafka transactions read back
	last    atomic.Pointer[guard.Last]
	led     bool // it has streamed and not stood by since; under mu

	recorder *live.Recorder
	hearers  []func(relay.Commit)
	pauser   pauser           // nil: there is none
	tracing  *tracing.Tracing // nil: nobody asks for it

	mu    sync.Mutex
	now   relay.State
	cause *fault.Error
}

// guaranteeOf is full with transaction.version 2, where an EndTxn cannot end
// another transaction than its own (KIP-890).
func guaranteeOf(s sink.Session) string {
	if s.Degraded {
		return "degraded"
	}
	return "full"
}

// serve runs until ctx ends. It returns nil when it was stopped, and otherwise
// the failure that ended the relay.
func serve(ctx context.Context, cfg config.Config, opts serveOptions, log zerolog.Logger) error {
	p := newParts(cfg, log)
	s := &service{parts: p, state: health.NewState(), opts: opts, now: relay.Starting, recorder: live.NewRecorder()}
	s.hearers = append(s.hearers, s.recorder.Commit)
	s.hearers = append(s.hearers, s.heard)
	var err error
	about := tracing.About{Service: "outbox-relay", Version: build().Version, Instance: instance(), Relay: cfg.Outbox.Name}
	if s.tracing, err = tracing.New(ctx, opts.environ, about, log); err != nil {
		return err
	}
	s.hearers = append(s.hearers, s.tracing.Committed)
	if s.guard, err = s.newGuard(); err != nil {
		return err
	}
	s.pauser = s.guard
	var r *relay.Relay
	var desk *letterDesk
	if cfg.Kafka.Enabled {
		if r, err = s.build(); err != nil {
			return err
		}
		if desk, err = newLetterDesk(p, "scheduler@"+instance()); err != nil {
			return err
		}
		s.show()
	}
	feed := s.newFeed()
	web := health.New(cfg.Health, health.About{Service: "outbox-relay", Version: build().Version, Instance: instance()}, s.state, s.checks(feed), p.reg)
	feed.Routes(web.Handle)
	page.Routes(web.Handle)
	web.Handle("GET /api/wait", p.gate(false).Handler())
	addr, err := web.Listen()
	if err != nil {
		return fault.Wrap(err, fault.Runtime, "serve health").WithFix("HEALTH_ADDR=127.0.0.1:<free port>")
	}
	desks, err := s.administer(feed, web)
	if err != nil {
		return err
	}
	log.Info().Str("version", build().Version).Str("relay", cfg.Outbox.Name).Str("slot", cfg.Outbox.Slot).
		Str("health", addr.String()).Msg("outbox-relay starts")
	if cfg.Kafka.Enabled && cfg.Kafka.ValidateOnStartup {
		if err := s.validate(ctx); err != nil {
			return err
		}
	}
	boundMemory(opts.environ, log)
	g, gctx := errgroup.WithContext(ctx)
	webCtx, stopWeb := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return web.Run(webCtx) })
	g.Go(fault.Guard(func() error { return feed.Run(webCtx) }))
	if desks != nil {
		g.Go(func() error { return desks.Run(webCtx) })
	}
	g.Go(func() error { return s.tracing.Run(webCtx) })
	g.Go(func() error { return notify(gctx, webCtx, opts.environ, s.state, log) })
	g.Go(func() error {
		defer stopWeb() // last: probes are answered while the relay drains
		return s.run(gctx, r)
	})
	g.Go(func() error { return s.watchSlot(gctx) })
	if s.breaker != nil {
		g.Go(fault.Guard(func() error { return s.breaker.Run(gctx) }))
	}
	if cfg.Kafka.Enabled && cfg.Outbox.DLQRetry {
		g.Go(fault.Guard(func() error { return s.retryLetters(gctx, desk) }))
	}
	err = g.Wait()
	log.Info().Err(err).Msg("outbox-relay ends")
	return err
}

// haltBeat is a fraction of what a liveness probe tolerates.
const haltBeat = 5 * time.Second

// run runs the relay. After a halt it stays, so that whoever comes can ask
// what is the matter.
func (s *service) run(ctx context.Context, r *relay.Relay) error {
	if r == nil {
		// KAFKA_ENABLED=false. No slot is held: one that nobody reads fills the server's disk.
		s.state.Set(health.Status{State: "disabled", Ready: true})
		s.stay(ctx)
		return nil
	}
	err := r.Run(ctx)
	if err == nil {
		return nil
	}
	f := fault.As(err)
	s.log.Error().Fields(f.Fields()).Err(err).Msg("halted")
	if s.opts.exitOnHalt {
		return err
	}
	s.stay(ctx)
	return err
}

// stay does nothing, and is alive while doing so.
func (s *service) stay(ctx context.Context) {
	for ctx.Err() == nil {
		s.state.Beat()
		select {
		case <-ctx.Done():
		case <-time.After(haltBeat):
		}
	}
}

func (s *service) build() (*relay.Relay, error) {
	src, err := s.sourceConfig(false)
	if err != nil {
		return nil, err
	}
	o := s.cfg.Outbox
	s.breaker = s.newBreaker()
	for _, t := range s.topics() {
		s.sink.Announce(t.Name)
	}
	if o.Canary {
		src.Canary = o.CanaryInterval
	}
	src.Reluctant = func() bool { return s.breaker.Status().State != breaker.Closed }
	r := &relay.Relay{
		Breaker: s.breaker,
		Letters: s.letters(),
		Probe: func(ctx context.Context, sess sink.Session, records []*kgo.Record) (error, error) {
			opts, err := s.client("bisect")
			if err != nil {
				return nil, err
			}
			return sink.Probe(ctx, s.sinkConfig(), opts, sess.Catalog, records, s.log)
		},
		OpenSource: func(ctx context.Context) (relay.Source, error) { return s.openSource(ctx, src) },
		OpenSink: func(ctx context.Context) (relay.Sink, sink.Session, error) {
			c := s.sinkConfig()
			c.Alive = s.alive
			if err := s.reach(ctx, "sink"); err != nil {
				s.kafka.Denied(err)
				return nil, sink.Session{}, err
			}
			opts, err := s.client("sink")
			if err != nil {
				return nil, sink.Session{}, err
			}
			c.Reach = func(ctx context.Context) error { return s.reach(ctx, "sink") }
			c.Reader = func() ([]kgo.Opt, error) { return s.client("reader") }
			p, sess, err := sink.Open(ctx, c, opts, s.log, s.sink)
			if err != nil {
				s.kafka.Denied(err)
				return nil, sess, s.trace.Explain(err)
			}
			s.guarantee.Store(guaranteeOf(sess))
			s.recorder.Opened(sess.State.Last)
			return p, sess, nil
		},
		NewTranslator: func(st replication.State, sess sink.Session) (relay.RowTranslator, error) {
			cfg := s.translator()
			if s.tracing != nil {
				cfg.Router.Span = s.tracing.Span
			}
			return relay.NewTranslator(cfg, st, sess, s.relay)
		},
		Publication: o.Publication, Version: build().Version,
		Limits:    relay.Limits{Size: o.BatchSize, Max: o.BatchMax, MaxBytes: int(o.BatchMaxBytes)},
		Heartbeat: o.HeartbeatInterval, MinCommitInterval: o.MinCommitInterval, DrainTimeout: o.DrainTimeout,
		Paused:   s.paused,
		OnCommit: s.onCommit, OnState: s.onState, Beat: s.state.Beat, Log: s.log, Metrics: s.relay,
	}
	src.OnStandby = func(h replication.Holder) {
		s.log.Info().Str("holder", h.String()).Str("slot", src.Slot).Msg("standby")
		r.Standby()
	}
	if s.opts.acceptGap != "" {
		gap, err := relay.ParseGap(s.opts.acceptGap)
		if err != nil {
			return nil, fault.Wrap(err, fault.ConfigInvalid, "--accept-gap").WithFix("repeat <checkpoint>:<slot> as the gap error prints it")
		}
		r.AcceptGap = &gap
	}
	return r, nil
}

// openSource takes the slot. With OUTBOX_AUTO_INIT what is missing is made.
func (s *service) openSource(ctx context.Context, cfg replication.Config) (relay.Source, error) {
	src, err := replication.Open(ctx, cfg, s.log, s.source)
	if err == nil {
		s.took(ctx, src)
		return src, nil
	}
	code := fault.CodeOf(err)
	missing := code == fault.SlotMissing || code == fault.TableMissing || code == fault.PublicationMissing
	switch {
	case missing && s.cfg.Outbox.AutoInit:
		plan, err := s.plan()
		if err != nil {
			return nil, err
		}
		if _, err := plan.Run(ctx); err != nil {
			return nil, err
		}
		src, err = replication.Open(ctx, cfg, s.log, s.source)
		if err != nil {
			return nil, err
		}
		s.took(ctx, src)
		return src, nil
	case code == fault.SlotMissing:
		return nil, s.explainMissing(ctx, err)
	}
	return nil, err
}

// pauseNews is how long a session waits, once it has the slot, to hear whether
// the relay is paused.
const pauseNews = time.Second

// took is told of each slot that was taken, before anything is read of it.
func (s *service) took(ctx context.Context, src *replication.Source) {
	s.alive = src.Alive
	ctx, cancel := context.WithTimeout(ctx, pauseNews)
	defer cancel()
	s.guard.Look(ctx)
}

// explainMissing tells a relay that was never initialised from one that has
// lost its slot. If Kafka cannot be asked in time, the slot alone is the news.
func (s *service) explainMissing(ctx context.Context, err error) error {
	log, lerr := s.checkpointLog()
	if lerr != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Kafka.Client.ConnectionTimeout)
	defer cancel()
	state, lerr := log.Peek(ctx)
	switch {
	case lerr != nil && fault.Has(kafka.Classify("peek", lerr), fault.KafkaTopicMissing), lerr == nil && state.Last == nil:
		return fault.Wrap(err, fault.NotInitialised, "relay %s", s.cfg.Outbox.Name)
	case lerr == nil:
		return fault.Wrap(err, fault.SlotMissing, "checkpoint %d is at %s", state.Last.Seq, state.Last.Pos)
	}
	return fault.Wrap(err, fault.SlotMissing, "relay %s", s.cfg.Outbox.Name).
		WithWhy("the replication slot does not exist; whether a checkpoint does could not be asked of Kafka").
		WithFix("outbox-relay init, if this relay is new; else outbox-relay recover")
}

// validate is KAFKA_VALIDATE_ON_STARTUP: an unreachable Kafka ends serve
// instead of being waited for.
func (s *service) validate(ctx context.Context) error { return s.reach(ctx, "validate") }

// checkMargin is what the Kafka check leaves of its time, so that it can say
// which broker did not answer before it is itself said not to.
const checkMargin = 200 * time.Millisecond

func (s *service) checks(feed *live.Feed) map[string]health.Check {
	checks := s.guardChecks()
	if !s.cfg.Kafka.Enabled {
		checks["kafka"] = func(context.Context) health.Result { return health.Result{Status: health.Disabled} }
		return checks
	}
	checks["lag"], checks["dlq"] = checkLag(feed), checkLetters(s.recorder)
	if !s.cfg.Health.IncludeKafka {
		return checks
	}
	checks["kafka"] = func(ctx context.Context) health.Result {
		if br := s.breaker.Status(); br.State != breaker.Closed {
			return broken(br)
		}
		if t, ok := ctx.Deadline(); ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, t.Add(-checkMargin))
			defer cancel()
		}
		closed := map[string]any{"breaker": string(breaker.Closed)}
		err := s.reach(ctx, "health")
		if err == nil {
			return health.Result{Status: health.Pass, Facts: closed}
		}
		var f *fault.Error
		if !errors.As(err, &f) {
			return health.Result{Status: health.Warn, Hint: err.Error(), Facts: closed}
		}
		// An outage is a warning: the WAL holds the events, and a restart
		// cures nothing.
		r := health.Result{Status: health.Warn, Code: f.Code.ID, Hint: f.Remedy(), Facts: closed}
		if class := f.Code.Connection(); class != "" {
			r.Facts["connection"], r.Facts["detail"], r.Facts["why"] = class, f.Error(), f.Reason()
		}
		return r
	}
	return checks
}
