package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
)

// Defaults of Config.
const (
	DefaultConcurrency      = 1
	DefaultMaxInFlight      = 20_000
	DefaultMaxInFlightBytes = 64 << 20
	DefaultAttempts         = 5
	DefaultCommitInterval   = time.Second
	DefaultDrainTimeout     = 10 * time.Second
	DefaultReplayMemory     = 10_000
	DefaultMaxLetterBytes   = 1_000_000
)

// maxDrain is the drain of limitsOf for the client's own rebalance time-out,
// 60 s.
const maxDrain = 45 * time.Second

// limits are what a rebalance may wait for here. A member that takes longer than
// the rebalance time-out is thrown out, and what it did and did not commit is
// done again by the next owner.
type limits struct {
	drain  time.Duration // calls that run
	moment time.Duration // for them to return after their context has ended
	commit time.Duration // one commit
}

// limitsOf shares the rebalance time-out out, so that the drain, the moment and
// three commits stay below it: ours, one of the interval and one of Drain, which
// may stand in front of it.
func limitsOf(rebalance, drain time.Duration) limits {
	return limits{
		drain:  min(drain, rebalance*3/4),
		moment: min(lastMoment, rebalance/20),
		commit: min(commitTimeout, rebalance/18),
	}
}

// Dedupe chooses what the consumer itself does against doing things twice.
type Dedupe int

// The modes. What each protects against is in docs/consumer.md.
const (
	// None: every record that arrives is handled. An event may come again
	// after a crash or a rebalance. This is also the choice for [Inbox],
	// which dedupes where the effect is.
	None Dedupe = iota

	// HighWater skips records at or below the highest position that their
	// partition has seen from their source. Replays are told by id.
	HighWater
)

// Foreign chooses what to do with records that the relay did not write.
type Foreign int

// The choices.
const (
	HandleForeign Foreign = iota // an Event with the fields it has
	LetterForeign                // a dead letter
)

// Config says what to read, how, and what to do with it. Group, Topics, Client
// and one of Handler and Transform are needed.
type Config struct {
	Group  string
	Topics []string
	Client []kgo.Opt // how to reach the brokers: seeds, TLS, SASL, client id

	// InstanceID makes the member static: a restart within the session
	// time-out moves no partition. It must be unique in the group.
	InstanceID string

	Handler Handler
	// Around, if not nil, is called before each call of Handler or Transform: the call
	// gets the context that it returns, and its function is told how the call ended, a
	// panic as a *PanicError. See package consumer/oteltrace, which makes spans with it.
	Around    func(ctx context.Context, ev *Event) (context.Context, func(error))
	Transform Transform

	// TransactionalID, with Transform, must be unique among the members that
	// run, and should survive restarts: a member that comes back under its
	// old id ends at once what it left open. "" is the group's name with the
	// InstanceID or, without one, with a random text.
	TransactionalID string

	Concurrency      int   // calls at a time; each key has one at most
	MaxInFlight      int   // records taken from the client and not done
	MaxInFlightBytes int64 // of them, about; one poll may exceed it where sizes vary

	Attempts        int                            // per event, the first included
	Backoff         func(failed int) time.Duration // before the next; see DefaultBackoff
	RetryTopic      string                         // "" retries in place; see RetryTopicOf
	DeadLetterTopic string                         // "" makes Run end with a *GaveUpError instead
	MaxLetterBytes  int                            // a letter above it leaves out its payload

	// LetterRetry is when a letter of the handler is replayed without a person,
	// by `outbox-relay dlq retry` or a relay with OUTBOX_DLQ_RETRY: the letter
	// says when, and how often it has been one. Letters of [Permanent] errors
	// and of unreadable records wait for a person; with the zero Schedule all do.
	LetterRetry dlq.Schedule

	// ErrorText is what a letter says of a handler's error. The default is
	// the error's own text, which must hold nothing that is secret.
	ErrorText func(error) string
	// ErrorCode gives the letter a code of the handler's own, or "" for ours.
	ErrorCode func(error) string

	Dedupe       Dedupe
	ReplayMemory int // ids of replays remembered with HighWater
	Foreign      Foreign

	CommitInterval time.Duration
	// DrainTimeout is what running calls get when a partition goes or Run ends.
	// When a partition goes, 3/4 of the client's rebalance time-out is the most.
	DrainTimeout time.Duration

	ReadUncommitted bool // also deliver what may be rolled back

	Name       string // of the service, in its letters; "" is the group's
	Version    string // of the service, in its letters
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// RetryTopicOf returns the conventional name of a group's retry topic.
func RetryTopicOf(group string) string { return group + ".retry" }

// complete fills in the defaults and says everything that is wrong.
func (c Config) complete() (Config, error) {
	var bad []error
	refuse := func(format string, args ...any) { bad = append(bad, fmt.Errorf(format, args...)) }
	if c.Group == "" {
		refuse("Group is empty")
	}
	if len(c.Topics) == 0 {
		refuse("Topics is empty")
	}
	if len(c.Client) == 0 {
		refuse("Client is empty: give it at least kgo.SeedBrokers")
	}
	if (c.Handler == nil) == (c.Transform == nil) {
		refuse("exactly one of Handler and Transform is needed")
	}
	if c.Transform != nil && c.RetryTopic != "" {
		refuse("RetryTopic and Transform exclude each other: a transaction retries in place")
	}
	if c.Transform != nil && c.Dedupe != None {
		refuse("Dedupe and Transform exclude each other: a transaction is its own dedupe")
	}
	if c.Transform == nil && c.TransactionalID != "" {
		refuse("TransactionalID needs Transform")
	}
	if c.RetryTopic != "" && slices.Contains(c.Topics, c.RetryTopic) {
		refuse("RetryTopic %q is one of Topics: it is subscribed by itself", c.RetryTopic)
	}
	if c.DeadLetterTopic != "" && slices.Contains(append(slices.Clone(c.Topics), c.RetryTopic), c.DeadLetterTopic) {
		refuse("DeadLetterTopic %q is also read: a letter would come back as an event", c.DeadLetterTopic)
	}
	c.Topics = slices.Clone(c.Topics)
	slices.Sort(c.Topics)
	c.Topics = slices.Compact(c.Topics)

	positive(&c.Concurrency, DefaultConcurrency, "Concurrency", refuse)
	positive(&c.MaxInFlight, DefaultMaxInFlight, "MaxInFlight", refuse)
	positive(&c.MaxInFlightBytes, DefaultMaxInFlightBytes, "MaxInFlightBytes", refuse)
	positive(&c.Attempts, DefaultAttempts, "Attempts", refuse)
	positive(&c.MaxLetterBytes, DefaultMaxLetterBytes, "MaxLetterBytes", refuse)
	positive(&c.ReplayMemory, DefaultReplayMemory, "ReplayMemory", refuse)
	positive(&c.CommitInterval, DefaultCommitInterval, "CommitInterval", refuse)
	positive(&c.DrainTimeout, DefaultDrainTimeout, "DrainTimeout", refuse)
	if c.DrainTimeout > maxDrain {
		refuse("DrainTimeout is %s: a rebalance waits for it, and may take %s", c.DrainTimeout, maxDrain)
	}
	if c.Backoff == nil {
		c.Backoff = DefaultBackoff
	}
	if c.ErrorText == nil {
		c.ErrorText = error.Error
	}
	if c.ErrorCode == nil {
		c.ErrorCode = func(error) string { return "" }
	}
	if c.Name == "" {
		c.Name = c.Group
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := errors.Join(bad...); err != nil {
		return c, fmt.Errorf("configure consumer: %w", err)
	}
	return c, nil
}

func positive[T int | int64 | time.Duration](v *T, def T, name string, refuse func(string, ...any)) {
	switch {
	case *v == 0:
		*v = def
	case *v < 0:
		refuse("%s is negative", name)
	}
}

func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// options are the client's: the caller's before ours, so that what this package
// depends on is not changed by accident.
func (c *Config) options() []kgo.Opt {
	level := kgo.ReadCommitted()
	if c.ReadUncommitted {
		level = kgo.ReadUncommitted()
	}
	topics := c.Topics
	if c.RetryTopic != "" {
		topics = append(slices.Clone(topics), c.RetryTopic)
	}
	opts := append(
		// What the client itself holds comes on top: this much per broker, as
		// it came over the wire.
		append([]kgo.Opt{kgo.FetchMaxBytes(int32(max(min(c.MaxInFlightBytes, 50<<20), 1<<20)))}, c.Client...),
		kgo.ConsumerGroup(c.Group),
		kgo.ConsumeTopics(topics...),
		kgo.FetchIsolationLevel(level),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.KeepControlRecords(), // so that the lag behind a commit marker is 0, not 1
		kgo.ProducerBatchMaxBytes(int32(c.MaxLetterBytes)),
		kgo.RequiredAcks(kgo.AllISRAcks()),
	)
	if c.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(c.InstanceID))
	}
	return opts
}
