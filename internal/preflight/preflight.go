// Package preflight checks a running Kafka with the settings of a relay, step
// by step, and says of each step what it found and what to do.
//
// The first steps look at every broker of KAFKA_BROKERS alone and at the same
// time: resolve, connect, tls, api, sasl. The following ones look at the
// cluster through the brokers that let us in: metadata, advertised, topic,
// rights, transaction-timeout, probe. A step whose ground failed is skipped;
// the others go on, so one run tells everything there is to tell.
//
// Invariants:
//
//   - Nothing here can disturb a relay that runs. The probe writes to the
//     checkpoint topic under a key that no reader of checkpoints knows, in
//     transactions of an id of its own, and never to a topic that consumers
//     read. What it leaves is a tombstone.
//   - Names, TCP and TLS of one broker together take KAFKA_CONNECTION_TIMEOUT
//     at most, each request KAFKA_REQUEST_TIMEOUT. Where nothing answers, all is
//     over after the first of them, because brokers are asked side by side.
//   - A result never holds a password: addresses, names and what errors say.
//
// It leaves to others: naming errors (internal/kafka), Postgres and the rows
// (internal/audit), printing and exit codes (cmd).
package preflight

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// Status is how a step ended.
type Status string

// The ends. A step is skipped if what it stands on failed, or if the settings
// do not ask for it.
const (
	Pass    Status = "pass"
	Warn    Status = "warn"
	Fail    Status = "fail"
	Skipped Status = "skipped"
)

// The steps, in their order.
const (
	StepResolve    = "resolve"
	StepConnect    = "connect"
	StepTLS        = "tls"
	StepAPI        = "api"
	StepSASL       = "sasl"
	StepMetadata   = "metadata"
	StepAdvertised = "advertised"
	StepTopic      = "topic"
	StepRights     = "rights"
	StepTimeout    = "transaction-timeout"
	StepProbe      = "probe"
)

// Result is what one step found about one target. Code, Why and Fix are set
// unless it passed or was skipped.
type Result struct {
	Step     string
	Target   string // broker, topic or transactional id
	Status   Status
	Duration time.Duration
	Finding  string
	Code     string
	Why      string
	Fix      string
	// Connection is the class of a connection fault, such as dns or tls.
	Connection string
	// Fault is all of that again, for those who judge on.
	Fault *fault.Error

	rank int // place in the report
}

// Report is everything that was found, in the order of the steps.
type Report struct {
	Results []Result
	// Reached: at least one broker was spoken with, as the user configured.
	Reached bool
}

// Failed tells whether any step failed.
func (r Report) Failed() bool {
	return slices.ContainsFunc(r.Results, func(s Result) bool { return s.Status == Fail })
}

// Topics are those of a relay.
type Topics struct {
	Events     string // "" if a template names them
	Letters    string
	State      string // of the letters
	Checkpoint string
}

// Config says what is checked.
type Config struct {
	Kafka              kafka.Config
	Name               string // of the relay
	Topics             Topics
	CreateTopics       bool // the relay makes missing topics of events
	ParkKeys           bool // the relay holds keys back behind their letters
	RetryLetters       bool // the relay replays letters by itself
	TransactionTimeout time.Duration
	// ReadOnly leaves out what writes: the transactional id is not taken, and
	// there is no probe. Only the relay's own rights are asked for.
	ReadOnly bool
	Log      zerolog.Logger
	// Lookup resolves a name; nil asks the resolver of the system.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Run carries all steps out. emit is called with each result when its step is
// done, by one goroutine at a time. The error is one of the settings; what is
// wrong with Kafka is in the report.
func Run(ctx context.Context, cfg Config, emit func(Result)) (Report, error) {
	seeds, err := cfg.Kafka.Endpoints()
	if err != nil {
		return Report{}, err
	}
	r := &run{cfg: cfg, emit: emit}
	r.connection, r.request = cfg.Kafka.Timeouts()
	in := r.seeds(ctx, seeds)
	if len(in) > 0 {
		r.report.Reached = true
	}
	if err := r.cluster(ctx, in); err != nil {
		return Report{}, err
	}
	if ctx.Err() != nil {
		return Report{}, fmt.Errorf("check Kafka: %w", context.Cause(ctx))
	}
	slices.SortStableFunc(r.report.Results, func(a, b Result) int { return cmp.Compare(a.rank, b.rank) })
	return r.report, nil
}

// run is one pass over all steps.
type run struct {
	cfg                 Config
	emit                func(Result)
	connection, request time.Duration

	mu     sync.Mutex
	report Report
}

// step is one that is under way.
type step struct {
	run   *run
	res   Result
	since time.Time
}

func (r *run) begin(rank int, name, target string) *step {
	return &step{run: r, res: Result{Step: name, Target: target, rank: rank}, since: time.Now()}
}

func (s *step) end(status Status, finding string) {
	s.res.Status, s.res.Finding = status, finding
	if status != Skipped {
		s.res.Duration = time.Since(s.since)
	}
	s.run.mu.Lock()
	defer s.run.mu.Unlock()
	s.run.report.Results = append(s.run.report.Results, s.res)
	if s.run.emit != nil {
		s.run.emit(s.res)
	}
}

func (s *step) pass(finding string) { s.end(Pass, finding) }
func (s *step) skip(finding string) { s.end(Skipped, finding) }

// fail ends the step with what an error says.
func (s *step) fail(err error) { s.bad(Fail, err) }

// warn ends the step with something that works and should not stay so.
func (s *step) warn(err error) { s.bad(Warn, err) }

func (s *step) bad(status Status, err error) {
	f := fault.As(err)
	s.res.Code, s.res.Why, s.res.Fix = f.Code.ID, f.Reason(), f.Remedy()
	s.res.Connection, s.res.Fault = f.Code.Connection(), f
	s.end(status, strings.TrimPrefix(f.Error(), f.Code.ID+" "))
}
