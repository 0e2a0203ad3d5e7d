// Package config is the one place where settings come from.
//
// Its job: gather each room's Config into one tree, fill it from flags,
// environment, file and defaults (in this order of precedence), judge all of
// it at once, and remember where each value came from.
//
// Invariants: a setting has one name. KAFKA_BROKERS in the environment,
// --kafka-brokers on the command line and kafka_brokers in the file (there also
// cut at any underscore: kafka: {brokers: ...}) are the same words. Every
// problem of a configuration is reported, not the first. An empty value is no
// value. No secret is part of a problem, a warning or what is shown, and no
// part of a database URL that did not parse.
//
// It leaves to others what a setting means: rooms validate their own Config.
// The command-line library is an inner matter of this package and of cmd; what
// commands read is the plain Config.
package config

import (
	"time"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/admin"
	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/cleanup"
	"github.com/holdwall/outbox-relay/internal/kafka"
	"github.com/holdwall/outbox-relay/internal/secret"
	"github.com/holdwall/outbox-relay/outbox"
)

// Config is every setting. Fields that can be derived from others are filled
// in: nothing here is left for the reader to default.
type Config struct {
	File     string           `name:"outbox-config" placeholder:"FILE" help:"YAML file with settings, under the same names."`
	Database Database         `embed:"" group:"Postgres"`
	Kafka    Kafka            `embed:"" group:"Kafka"`
	Outbox   Outbox           `embed:"" group:"Outbox"`
	Cleanup  cleanup.Settings `embed:"" group:"Outbox"`
	Health   health.Config    `embed:"" group:"Health"`
	Admin    admin.Config     `embed:"" group:"Health"`
	Log      Log              `embed:"" group:"Log"`
}

// Database says how to reach Postgres. Without a URL the PG* variables count.
type Database struct {
	URL      secret.Text `name:"database-url" argv:"allowed" placeholder:"URL" help:"Postgres URL or keyword string; else the PG* variables."`
	AdminURL secret.Text `name:"outbox-admin-url" argv:"allowed" placeholder:"URL" help:"Stronger credentials, for init, cleanup and changes of slots."`
}

// Kafka is the cluster and the topics in it.
type Kafka struct {
	Enabled            bool           `name:"kafka-enabled" default:"true" help:"Relay to Kafka at all; false holds no slot."`
	Client             kafka.Config   `embed:""`
	Breaker            breaker.Config `embed:""`
	EventsTopic        string         `name:"kafka-events-topic" default:"outbox.events" placeholder:"TOPIC" help:"Where rows go that ask for no other topic."`
	DLQTopic           string         `name:"kafka-dlq-topic" placeholder:"TOPIC" help:"Dead letters; default: the events topic and .dlq."`
	CheckpointTopic    string         `name:"kafka-checkpoint-topic" placeholder:"TOPIC" help:"Position of the relay; default: outbox.<name>.checkpoint."`
	CreateTopics       bool           `name:"kafka-create-topics" default:"false" help:"Create topics that are missing."`
	TransactionTimeout time.Duration  `name:"kafka-transaction-timeout" default:"60s" help:"After which a broker aborts a transaction by itself."`
	ValidateOnStartup  bool           `name:"kafka-validate-on-startup" default:"false" help:"End with status 3 if Kafka is not there at start, instead of waiting."`
}

// Outbox is the relay itself.
type Outbox struct {
	Name              string         `name:"outbox-name" default:"outbox" placeholder:"NAME" help:"Name of the relay, the same on all its replicas."`
	Slot              string         `name:"outbox-slot" default:"outbox_relay" placeholder:"NAME" help:"Replication slot."`
	Publication       string         `name:"outbox-publication" default:"outbox_pub" placeholder:"NAME" help:"Publication of the table."`
	Table             outbox.Table   `name:"outbox-table" default:"outbox.events" placeholder:"SCHEMA.TABLE" help:"Outbox table."`
	Columns           outbox.Columns `name:"outbox-columns" placeholder:"FIELD=COLUMN,..." help:"Columns that have other names."`
	TopicTemplate     string         `name:"outbox-topic-template" placeholder:"TEMPLATE" help:"Topic by row, as outbox.event.{aggregatetype}."`
	Tombstones        bool           `name:"outbox-tombstones" default:"false" help:"Send a NULL payload as a tombstone, not as the JSON text null."`
	AutoInit          bool           `name:"outbox-auto-init" default:"false" help:"Let serve do what init does. For demos and tests."`
	BatchSize         int            `name:"outbox-batch-size" default:"100" help:"Rows after which a transaction begins to be full."`
	BatchMax          int            `name:"outbox-batch-max" default:"20000" help:"Most rows in one Kafka transaction."`
	BatchMaxBytes     Bytes          `name:"outbox-batch-max-bytes" default:"16MiB" help:"Most bytes in one Kafka transaction."`
	MaxRowBytes       Bytes          `name:"outbox-max-row-bytes" default:"64MiB" help:"Largest row that is read; a larger one halts."`
	HeartbeatInterval time.Duration  `name:"outbox-heartbeat-interval" default:"10s" help:"How often an idle relay moves its position."`
	DrainTimeout      time.Duration  `name:"outbox-drain-timeout" default:"30s" help:"How long a stop may take to finish what is begun."`
	ErrorsTolerance   string         `name:"outbox-errors-tolerance" default:"all" oneof:"all,none" placeholder:"WHICH" help:"Rows that can be no event: all become dead letters, or none does and the first one halts."`
	LettersPerMinute  int            `name:"outbox-dlq-max-per-minute" default:"10000" help:"Dead letters in a minute beyond which the relay halts; 0: any number."`
	ParkKeys          bool           `name:"outbox-dlq-park-keys" default:"false" help:"Hold later events of a key back behind its dead letter, so that their order survives. Needs the right to read the topics of letters."`
	DLQRetry          bool           `name:"outbox-dlq-retry" default:"false" help:"Let serve replay dead letters when their time has come; else that is for outbox-relay dlq retry."`
	DLQRetryBase      time.Duration  `name:"outbox-dlq-retry-base" default:"1m" help:"How long a dead letter that may heal waits for its first retry; each further one waits twice as long."`
	DLQRetryMax       time.Duration  `name:"outbox-dlq-retry-max" default:"1h" help:"Longest wait between two retries."`
	DLQRetryAttempts  int            `name:"outbox-dlq-retry-attempts" default:"5" help:"Attempts after which a dead letter is left to a person; 1: no retries."`
	SenderTimeout     time.Duration  `name:"outbox-sender-timeout" default:"10s" help:"How long Postgres keeps the slot for a replica that has fallen silent, before a standby may have it; 0: wal_sender_timeout of the server."`
	MinCommitInterval time.Duration  `name:"outbox-min-commit-interval" default:"0s" help:"Least time between two Kafka transactions."`
	GuardInterval     time.Duration  `name:"outbox-guard-interval" default:"5s" help:"How often every replica looks at the slot and at what the server keeps for it."`
	Canary            bool           `name:"outbox-canary" default:"false" help:"Write a row from time to time that proves that the publication publishes, and halt if the stream passes it without. Needs what init grants with it."`
	CanaryInterval    time.Duration  `name:"outbox-canary-interval" default:"1m" help:"How often that row is written."`
	SlotWarnBytes     Bytes          `name:"outbox-slot-warn-bytes" default:"10GiB" help:"Retained WAL to warn at where max_slot_wal_keep_size sets no limit; 0: never."`
}

// Log is how the program speaks.
type Log struct {
	Level  string `name:"log-level" default:"info" oneof:"trace,debug,info,warn,error" placeholder:"LEVEL" help:"trace, debug, info, warn or error."`
	Format string `name:"log-format" default:"auto" oneof:"auto,json,console" placeholder:"FORMAT" help:"json, console, or auto: console on a terminal."`
}

// Default returns the settings of an empty environment. They lack a database
// and brokers.
func Default() Config {
	var c Config
	for _, s := range settingsOf(&c) {
		if s.def != "" {
			// A default that cannot be read is a mistake in the tags above,
			// which the tests find.
			_ = s.parse(s.def)
		}
	}
	c.derive()
	return c
}
