package demo

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Config is what a person may choose about the demo. The zero value runs
// 20 s with everything embedded.
type Config struct {
	DatabaseURL string    // empty: a temporary Postgres is started
	Brokers     []string  // empty: an in-process broker is started
	KafkaOpts   []kgo.Opt // security and time-outs for Brokers, as serve would use them
	Duration    time.Duration
	Rate        int  // events per second
	CI          bool // plain lines, no screen
	NoChaos     bool // no kill on purpose
	Fast        bool // Postgres without fsync
	Keep        bool // leave the folder, topics and tables behind
	Version     string
	Executable  string    // empty: the running binary
	Started     time.Time // zero: when the process started, as far as the system tells
	Stdin       *os.File  // keys are read from here if it is a terminal
	Environ     []string  // nil: os.Environ()

	stall time.Duration // how long nothing may arrive at the end; for tests
}

const (
	defaultDuration = 20 * time.Second
	defaultRate     = 200
)

func (c Config) withDefaults() (Config, error) {
	if c.Duration <= 0 {
		c.Duration = defaultDuration
	}
	if c.Rate <= 0 {
		c.Rate = defaultRate
	}
	if c.stall <= 0 {
		c.stall = drainStall
	}
	if c.Environ == nil {
		c.Environ = os.Environ()
	}
	if c.Started.IsZero() {
		c.Started = processStart()
	}
	if c.Executable == "" {
		exe, err := os.Executable()
		if err != nil {
			return c, err
		}
		c.Executable = exe
	}
	return c, nil
}

// names are what the demo's relay is told to use.
type names struct {
	relay, slot, publication, schema, table string
	events, dlq, checkpoint                 string
}

// newNames returns the defaults for parts that the demo made itself. In a
// database or cluster of somebody else the defaults may be taken by a real
// relay, so there everything gets a name of its own.
func newNames(foreign bool) names {
	n := names{relay: "outbox", slot: "outbox_relay", publication: "outbox_pub", schema: "outbox", events: "outbox.events"}
	if foreign {
		var b [3]byte
		_, _ = rand.Read(b[:]) // never fails
		id := hex.EncodeToString(b[:])
		n = names{
			relay: "demo-" + id, slot: "outbox_demo_" + id, publication: "outbox_demo_" + id,
			schema: "outbox_demo_" + id, events: "outbox-demo-" + id + ".events",
		}
	}
	n.table = n.schema + ".events"
	n.dlq = n.events + ".dlq"
	n.checkpoint = "outbox." + n.relay + ".checkpoint"
	return n
}

// relayEnv is the environment of the relay child: the demo's own settings
// over what is left of the caller's. Settings of the caller that would steer
// the relay elsewhere are dropped; those for reaching a database or a cluster
// that was given stay.
func (c Config) relayEnv(n names, databaseURL string, brokers []string, healthAddr string) []string {
	own := []string{
		"DATABASE_URL=" + databaseURL,
		"KAFKA_BROKERS=" + strings.Join(brokers, ","),
		"KAFKA_ENABLED=true",
		"KAFKA_CREATE_TOPICS=true",
		"KAFKA_EVENTS_TOPIC=" + n.events,
		"KAFKA_DLQ_TOPIC=" + n.dlq,
		"KAFKA_CHECKPOINT_TOPIC=" + n.checkpoint,
		"OUTBOX_NAME=" + n.relay,
		"OUTBOX_SLOT=" + n.slot,
		"OUTBOX_PUBLICATION=" + n.publication,
		"OUTBOX_TABLE=" + n.table,
		"OUTBOX_AUTO_INIT=true",
		"HEALTH_ADDR=" + healthAddr, "ADMIN_ADDR=off",
		"LOG_FORMAT=json",
	}
	var env []string
	for _, kv := range c.Environ {
		name, _, _ := strings.Cut(kv, "=")
		drop := strings.HasPrefix(name, "OUTBOX_") || name == "DATABASE_URL_FILE" || name == "KAFKA_BOOTSTRAP_SERVERS" ||
			strings.HasPrefix(name, "PG") && c.DatabaseURL == "" ||
			strings.HasPrefix(name, "KAFKA_") && len(c.Brokers) == 0 ||
			slices.ContainsFunc(own, func(o string) bool { return strings.HasPrefix(o, name+"=") })
		if !drop {
			env = append(env, kv)
		}
	}
	return append(env, own...)
}
