package breaker

import (
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Config says when to give up for a while, for how long, and what it takes to
// come back. Zero fields mean the defaults.
type Config struct {
	Failures  int           `name:"kafka-breaker-failures" default:"5" help:"Attempts to open a Kafka session that fail in a row before Kafka is left alone."`
	Reset     time.Duration `name:"kafka-breaker-reset" default:"5m" help:"How long it is then left alone."`
	Successes int           `name:"kafka-breaker-successes" default:"2" help:"Probes that have to succeed in a row before a session is opened again."`
}

// The defaults.
const (
	DefaultFailures  = 5
	DefaultReset     = 5 * time.Minute
	DefaultSuccesses = 2
)

// Bounds. A Kafka that is never given up on needs no more failures than this:
// with the backoff of 10 s between them it is tried for days.
const (
	maxCount = 1_000_000
	minReset = 100 * time.Millisecond
	maxReset = 24 * time.Hour
)

// Defaults fills what was left zero.
func (c Config) Defaults() Config {
	if c.Failures == 0 {
		c.Failures = DefaultFailures
	}
	if c.Reset == 0 {
		c.Reset = DefaultReset
	}
	if c.Successes == 0 {
		c.Successes = DefaultSuccesses
	}
	return c
}

// Validate returns every fault of the settings. Zero is one here: who writes
// it means "never" or "at once", and gets neither.
func (c Config) Validate() []*fault.Error {
	var faults []*fault.Error
	for _, n := range []struct {
		name  string
		value int
		fix   int
	}{
		{"KAFKA_BREAKER_FAILURES", c.Failures, DefaultFailures},
		{"KAFKA_BREAKER_SUCCESSES", c.Successes, DefaultSuccesses},
	} {
		if n.value < 1 || n.value > maxCount {
			faults = append(faults, fault.New(fault.ConfigInvalid, "%s is %d", n.name, n.value).
				WithWhy("it is from 1 to %d", maxCount).WithFix("%s=%d", n.name, n.fix))
		}
	}
	if c.Reset < minReset || c.Reset > maxReset {
		faults = append(faults, fault.New(fault.ConfigInvalid, "KAFKA_BREAKER_RESET is %s", c.Reset).
			WithWhy("it is from %s to %s", minReset, maxReset).WithFix("KAFKA_BREAKER_RESET=5m"))
	}
	return faults
}
