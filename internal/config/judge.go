package config

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// Need is what a command cannot do without.
type Need uint8

// The needs. NeedKafka is void when KAFKA_ENABLED is false.
const (
	NeedDatabase Need = iota
	NeedKafka
)

var (
	relayName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
	topicName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)
)

// judge fills in what follows from other settings and returns all faults.
func (l *Loader) judge(needs []Need) []*fault.Error {
	c := &l.cfg
	var faults []*fault.Error
	add := func(f ...*fault.Error) {
		for _, f := range f {
			if f != nil {
				faults = append(faults, f)
			}
		}
	}
	for _, s := range l.settings {
		if !s.argv && s.origin == FromFlag {
			add(fault.New(fault.ConfigInvalid, "--%s is given", s.name).WithWhy("every user of this host can read the command line of a process").
				WithFix("%s in the environment, or %s_FILE", s.env, s.env))
		}
	}
	add(l.readSecrets()...)
	add(l.judgeDatabase(slices.Contains(needs, NeedDatabase))...)

	if slices.Contains(needs, NeedKafka) && c.Kafka.Enabled && len(c.Kafka.Client.Brokers) == 0 {
		add(fault.New(fault.ConfigMissing, "KAFKA_BROKERS is not set").
			WithFix("KAFKA_BROKERS=broker-1:9092,broker-2:9092; with no Kafka at hand try `outbox-relay demo`"))
	}
	add(c.Kafka.Client.Validate()...)
	add(c.Kafka.Breaker.Validate()...)
	c.derive()
	l.markDerived()
	add(l.judgeTopics()...)
	add(c.judgeOutbox()...)
	add(c.Cleanup.Validate()...)
	if err := c.Health.Validate(); err != nil {
		add(fault.New(fault.ConfigInvalid, "HEALTH_ADDR %s", err).WithWhy("it is host:port, or :port for every interface").WithFix("HEALTH_ADDR=127.0.0.1:8080"))
	}
	return append(faults, c.Admin.Validate()...)
}

// sound drops faults about settings whose value could not be read: they are
// the same mistake told twice.
func (l *Loader) sound(faults []*fault.Error) []*fault.Error {
	return slices.DeleteFunc(faults, func(f *fault.Error) bool {
		return slices.ContainsFunc(l.settings, func(s *setting) bool {
			return s.bad != nil && strings.HasPrefix(f.Detail, s.env+" ")
		})
	})
}

func (l *Loader) judgeDatabase(needed bool) []*fault.Error {
	d := l.cfg.Database
	var faults []*fault.Error
	switch {
	case d.URL.Set():
		if _, err := d.Conn(); err != nil {
			faults = append(faults, fault.As(err))
		}
	case needed && !l.hasPG():
		faults = append(faults, fault.New(fault.ConfigMissing, "DATABASE_URL is not set").
			WithFix("DATABASE_URL=postgres://user@host:5432/database, or the PG* variables"))
	case needed:
		if _, err := d.Conn(); err != nil {
			faults = append(faults, fault.As(err))
		}
	}
	if d.AdminURL.Set() {
		if _, err := d.AdminConn(); err != nil {
			faults = append(faults, fault.As(err))
		}
	}
	return faults
}

// hasPG tells whether the standard variables say where a database is.
func (l *Loader) hasPG() bool {
	return slices.ContainsFunc([]string{"PGHOST", "PGDATABASE", "PGUSER", "PGSERVICE"}, func(k string) bool { return l.environ[k] != "" })
}

// derive fills in names that follow from others.
func (c *Config) derive() {
	c.Kafka.Client.ClientID = "outbox-relay-" + c.Outbox.Name
	if c.Outbox.Columns == (outbox.Columns{}) {
		c.Outbox.Columns = outbox.DefaultColumns()
	}
	if c.Kafka.DLQTopic == "" {
		c.Kafka.DLQTopic = dlq.DefaultTopic(c.Kafka.EventsTopic)
	}
	if c.Kafka.CheckpointTopic == "" {
		c.Kafka.CheckpointTopic = "outbox." + c.Outbox.Name + ".checkpoint"
	}
}

func (l *Loader) judgeTopics() []*fault.Error {
	c := &l.cfg
	var faults []*fault.Error
	legal := func(t string) bool { return topicName.MatchString(t) && t != "." && t != ".." }
	topics := []struct {
		name, topic string
		follows     bool // from another that is illegal: one mistake, told once
	}{
		{"KAFKA_EVENTS_TOPIC", c.Kafka.EventsTopic, false},
		{"KAFKA_DLQ_TOPIC", c.Kafka.DLQTopic, l.byName["kafka-dlq-topic"].origin == Derived && !legal(c.Kafka.EventsTopic)},
		{"the topic of what became of dead letters", dlq.StateTopic(c.Kafka.DLQTopic), !legal(c.Kafka.DLQTopic)},
		{"KAFKA_CHECKPOINT_TOPIC", c.Kafka.CheckpointTopic, l.byName["kafka-checkpoint-topic"].origin == Derived && !relayName.MatchString(c.Outbox.Name)},
	}
	for i, t := range topics {
		if !legal(t.topic) && !t.follows {
			faults = append(faults, fault.New(fault.ConfigInvalid, "%s is %s", t.name, quoted(t.topic)).
				WithWhy("a topic name is 1 to 249 of [A-Za-z0-9._-], and not . or ..").WithFix("choose another name"))
		}
		for _, u := range topics[:i] {
			// Kafka's metrics write . as _, so it refuses names that differ in
			// that alone.
			if strings.ReplaceAll(t.topic, ".", "_") == strings.ReplaceAll(u.topic, ".", "_") {
				faults = append(faults, fault.New(fault.ConfigInvalid, "%s and %s are both %s", u.name, t.name, quoted(t.topic)).
					WithWhy("each has its own retention and readers, and names that differ only in . and _ collide").WithFix("choose different names"))
			}
		}
	}
	if c.Outbox.TopicTemplate != "" {
		if _, err := sink.NewRouter(sink.RouterConfig{EventsTopic: c.Kafka.EventsTopic, TopicTemplate: c.Outbox.TopicTemplate}); err != nil {
			faults = append(faults, fault.New(fault.ConfigInvalid, "OUTBOX_TOPIC_TEMPLATE is %s", quoted(c.Outbox.TopicTemplate)).
				WithWhy("%s", detail(err)).WithFix("OUTBOX_TOPIC_TEMPLATE=outbox.event.{aggregatetype}"))
		}
	}
	return faults
}

// detail is what an error says, without its code.
func detail(err error) string {
	f := fault.As(err)
	if f.Err != nil {
		return f.Detail + ": " + detail(f.Err)
	}
	return f.Detail
}

func (c *Config) judgeOutbox() []*fault.Error {
	o := c.Outbox
	var faults []*fault.Error
	bad := func(name string, value any, why, fix string) {
		faults = append(faults, fault.New(fault.ConfigInvalid, "%s is %v", name, value).WithWhy("%s", why).WithFix("%s=%s", name, fix))
	}
	if !relayName.MatchString(o.Name) {
		bad("OUTBOX_NAME", quoted(o.Name), "it is part of topic names and of the transactional id: 1 to 100 of [A-Za-z0-9._-], beginning with a letter or digit", "orders")
	}
	if o.Table.Schema == "" {
		bad("OUTBOX_TABLE", quoted(o.Table.String()), "it needs its schema: a search path may differ between the relay and those who write", "outbox.events")
	}
	for _, f := range (replication.Config{Slot: o.Slot, Publication: o.Publication}).Validate() {
		if f.Fix == "" {
			f = f.WithFix("OUTBOX_SLOT=outbox_relay and OUTBOX_PUBLICATION=outbox_pub are the defaults")
		}
		faults = append(faults, f)
	}
	if len(o.Publication) > 63 {
		bad("OUTBOX_PUBLICATION", quoted(o.Publication), "Postgres keeps 63 bytes of a name", "outbox_pub")
	}
	if o.BatchSize < 1 {
		bad("OUTBOX_BATCH_SIZE", o.BatchSize, "it is at least 1", "100")
	}
	if o.BatchMax < max(1, o.BatchSize) {
		bad("OUTBOX_BATCH_MAX", o.BatchMax, fmt.Sprintf("it is at least OUTBOX_BATCH_SIZE, which is %d", o.BatchSize), "20000")
	}
	if o.LettersPerMinute < 0 {
		bad("OUTBOX_DLQ_MAX_PER_MINUTE", o.LettersPerMinute, "it is a number of letters, or 0 for any", "10000")
	}
	if o.DLQRetryMax < o.DLQRetryBase {
		bad("OUTBOX_DLQ_RETRY_MAX", o.DLQRetryMax, fmt.Sprintf("it is at least OUTBOX_DLQ_RETRY_BASE, which is %s", o.DLQRetryBase), "1h")
	}
	if o.DLQRetryAttempts < 1 {
		bad("OUTBOX_DLQ_RETRY_ATTEMPTS", o.DLQRetryAttempts, "it is at least 1, which is no retry", "5")
	}
	if o.BatchMaxBytes < 1<<10 {
		bad("OUTBOX_BATCH_MAX_BYTES", o.BatchMaxBytes, "it is at least 1KiB", "16MiB")
	}
	if o.MaxRowBytes < 1<<10 || o.MaxRowBytes > 1<<30 {
		bad("OUTBOX_MAX_ROW_BYTES", o.MaxRowBytes, "it is from 1KiB to 1GiB, the most that Postgres stores in a field", "64MiB")
	}
	if o.SenderTimeout != 0 && o.SenderTimeout < time.Second {
		bad("OUTBOX_SENDER_TIMEOUT", o.SenderTimeout, "it is at least 1s, or 0 for the server's own", "10s")
	}
	for _, d := range []struct {
		name  string
		value time.Duration
		least time.Duration
		fix   string
	}{
		{"OUTBOX_HEARTBEAT_INTERVAL", o.HeartbeatInterval, 100 * time.Millisecond, "10s"},
		{"OUTBOX_CANARY_INTERVAL", o.CanaryInterval, 100 * time.Millisecond, "1m"},
		{"OUTBOX_GUARD_INTERVAL", o.GuardInterval, 100 * time.Millisecond, "5s"},
		{"OUTBOX_DRAIN_TIMEOUT", o.DrainTimeout, 0, "30s"},
		{"OUTBOX_MIN_COMMIT_INTERVAL", o.MinCommitInterval, 0, "0"},
		{"OUTBOX_SENDER_TIMEOUT", o.SenderTimeout, 0, "10s"},
		{"OUTBOX_DLQ_RETRY_BASE", o.DLQRetryBase, time.Second, "1m"},
		{"OUTBOX_DLQ_RETRY_MAX", o.DLQRetryMax, time.Second, "1h"},
		{"KAFKA_TRANSACTION_TIMEOUT", c.Kafka.TransactionTimeout, time.Second, "60s"},
	} {
		if d.value < d.least || d.value > math.MaxInt32*time.Millisecond {
			bad(d.name, d.value, fmt.Sprintf("it is at least %s and below 24 days", d.least), d.fix)
		}
	}
	return faults
}
