package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/pipeline"
)

// contactBeat is how often the pipeline's state is looked at: a fraction of
// what probes tolerate.
const contactBeat = time.Second

// startingBeats is how many beats a start may take before it is asked what is
// missing, and how often that is asked again.
const startingBeats = 5

// piping is a running `pipeline` and its HTTP face.
type piping struct {
	*parts
	handler *pipeline.Metrics
	state   *health.State
	contact *pipeline.Contact
	environ []string

	mu    sync.Mutex
	child bool         // there is one, or none is needed
	why   *fault.Error // there is none

	missing *fault.Error // why there is nothing to consume; watch's alone
}

func newPiping(cfg config.Config, log zerolog.Logger) *piping {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	return &piping{
		parts:   &parts{cfg: cfg, log: log, lines: log, reg: reg, kafka: kafka.NewMetrics(reg)},
		handler: pipeline.NewMetrics(reg), state: health.NewState(), contact: pipeline.NewContact(),
	}
}

// run consumes until ctx ends, or the end is reached if that was asked for.
func (s *piping) run(ctx context.Context, p *pipeline.Pipeline) error {
	opts, err := s.client("pipeline")
	if err != nil {
		return err
	}
	c := &p.Consumer
	c.Client = append(opts, kgo.WithHooks(s.contact))
	c.Name, c.Version, c.Registerer = c.Group, build().Version, s.reg
	c.Logger = slog.New(zerolog.NewSlogHandler(s.log))
	s.child = p.Child == nil

	web := health.New(s.cfg.Health, health.About{Service: "outbox-relay-pipeline", Version: build().Version, Instance: instance()}, s.state, nil, s.reg)
	line := s.log.Info().Str("version", build().Version).Str("group", c.Group).Strs("topics", c.Topics)
	addr, err := web.Listen()
	switch {
	case err == nil:
		line = line.Str("health", addr.String())
	case p.UntilEnd:
		// A script beside a service that has the address is no mistake, and
		// nobody probes what ends by itself.
		s.log.Warn().Err(err).Msg("no probes")
		web = nil
	default:
		return fault.Wrap(err, fault.Runtime, "serve health").WithFix("HEALTH_ADDR=127.0.0.1:<free port>")
	}
	if p.Webhook != nil {
		line = line.Str("webhook", p.Webhook.Place())
	}
	line.Msg("pipeline starts")

	var g errgroup.Group
	serving, stopWeb := context.WithCancel(context.WithoutCancel(ctx))
	if web != nil {
		g.Go(func() error { return web.Run(serving) })
	}
	g.Go(func() error { s.watch(serving, c.Topics); return nil })
	g.Go(func() error { return notify(ctx, serving, s.environ, s.state, s.log) })
	g.Go(func() error {
		defer stopWeb() // last: probes are answered while the pipeline drains
		return kafka.Classify(fmt.Sprintf("consume %s as group %s", strings.Join(c.Topics, ", "), c.Group), p.Run(ctx))
	})
	err = g.Wait()
	s.log.Info().Err(err).Msg("pipeline ends")
	return err
}

// onChild is told whether there is a child.
func (s *piping) onChild(up bool, why *fault.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.child, s.why = up, why
}

// watch keeps the health page true.
func (s *piping) watch(ctx context.Context, topics []string) {
	tick := time.NewTicker(contactBeat)
	defer tick.Stop()
	var said health.Status
	for beat := 1; ; beat++ {
		s.state.Beat()
		now := s.status()
		if now.State == "starting" && beat%startingBeats == 0 {
			s.missing = s.lookFor(ctx, topics)
			now = s.status()
		}
		s.state.Set(now)
		if now.State != said.State || now.Code != said.Code {
			s.say(said, now)
			said = now
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lookFor asks what keeps the group from having something to consume: a topic
// that does not exist makes the client wait for it without a word.
func (s *piping) lookFor(ctx context.Context, topics []string) *fault.Error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Kafka.Client.ConnectionTimeout)
	defer cancel()
	opts, err := s.client("look")
	if err != nil {
		return fault.As(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil // the pipeline's own could be made
	}
	defer cl.Close()
	there, err := kadm.NewClient(cl).ListTopics(ctx, topics...)
	if err != nil || ctx.Err() != nil {
		return nil // the contact knows more about that
	}
	for _, name := range topics {
		if err := there[name].Err; err != nil {
			return fault.As(kafka.Classify("consume topic "+name, err))
		}
	}
	return nil
}

// say logs a change of state. The consumer comes back from any outage and has
// nothing to say about it; a child that is lost has been logged.
func (s *piping) say(was, now health.Status) {
	switch {
	case now.Ready && was.State != "":
		s.log.Info().Str("was", was.State).Msg("consuming")
	case now.Code != "" && !strings.HasPrefix(now.Name, "child_"):
		s.log.Warn().Str("code", now.Code).Str("name", now.Name).Str("why", now.Why).Str("hint", now.Fix).Str("error", now.Detail).Msg("not consuming, trying again")
	}
}

func (s *piping) status() health.Status {
	s.mu.Lock()
	child, why := s.child, s.why
	s.mu.Unlock()
	heard, err := s.contact.Ask()
	switch {
	case child && heard:
		s.missing = nil
		return health.Status{State: "consuming", Role: "consumer", Ready: true}
	case child && err != nil:
		why = fault.As(kafka.Classify("reach Kafka", err))
	case child && s.missing != nil:
		why = s.missing
	case child || why == nil:
		return health.Status{State: "starting", Role: "consumer"}
	}
	return health.Status{
		State: "backoff", Role: "consumer",
		Code: why.Code.ID, Name: why.Code.Name, Detail: why.Error(), Why: why.Reason(), Fix: why.Remedy(),
	}
}
