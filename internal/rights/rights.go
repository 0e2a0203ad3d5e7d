// Package rights is the one place where it is written down which rights a relay
// needs, in Postgres and in Kafka, for exactly its configuration.
//
// Its job: the list, each right with the sentence that says what it is for. The
// command prints it, docs/operations.md is written from it, and the tests take
// away each entry in turn and see something fail. What is not needed by any of
// them is not in the list.
//
// Invariant: nothing is listed that another entry implies. In Kafka Read and
// Write imply Describe.
//
// It leaves to others: whether the rights are there (internal/doctor,
// internal/preflight), and granting them, which is a person's.
package rights

import (
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/sink"
)

// Purpose is what somebody does with rights.
type Purpose string

// The purposes.
const (
	Init     Purpose = "init"     // creates what a relay needs, once
	Relay    Purpose = "relay"    // serves
	Writer   Purpose = "writer"   // inserts rows
	Operator Purpose = "operator" // looks at events and letters, replays them
	Monitor  Purpose = "monitor"  // looks at the slot and at the server
	Doctor   Purpose = "doctor"   // has more than a relay needs, to say more
)

// Setup is the configuration as far as rights depend on it.
type Setup struct {
	Database    string
	Table       outbox.Table
	Publication string
	Admin       string // role that runs init
	Relay       string // role that serves

	Name       string // of the relay
	Events     string // topic
	Template   string // of topics by row, "" if all go to Events
	Letters    string
	Checkpoint string
	Canary     bool // OUTBOX_CANARY
	Creates    bool // the relay makes missing topics
	Parks      bool // keys behind their letters
	Retries    bool // letters by itself
	Principal  string
}

// Names of roles and principals where the settings name none.
const (
	DefaultAdmin    = "outbox_admin"
	DefaultRelay    = "outbox_relay"
	WriterRole      = "outbox_writer"
	OperatorRole    = "outbox_operator"
	MonitorRole     = "outbox_monitor"
	DefaultDatabase = "shop"
	DefaultUser     = "User:outbox-relay"
)

// Of returns the set-up of a configuration. What it does not say has a name that
// stands for it.
func Of(c config.Config) Setup {
	s := Setup{
		Database: DefaultDatabase, Table: c.Outbox.Table, Publication: c.Outbox.Publication, Admin: DefaultAdmin, Relay: DefaultRelay,
		Name: c.Outbox.Name, Events: c.Kafka.EventsTopic, Template: c.Outbox.TopicTemplate, Letters: c.Kafka.DLQTopic, Checkpoint: c.Kafka.CheckpointTopic,
		Canary: c.Outbox.Canary, Creates: c.Kafka.CreateTopics, Parks: c.Outbox.ParkKeys, Retries: c.Outbox.DLQRetry, Principal: DefaultUser,
	}
	if c.Database.URL.Set() {
		if conn, err := c.Database.Conn(); err == nil {
			s.Database, s.Relay = conn.Database, conn.User
		}
	}
	if c.Database.AdminURL.Set() {
		if conn, err := c.Database.AdminConn(); err == nil {
			s.Admin = conn.User
		}
	}
	if u := c.Kafka.Client.SASL.Username; u != "" {
		s.Principal = "User:" + u
	}
	return s
}

func (s Setup) transactional() string { return sink.TransactionalID(s.Name) }
func (s Setup) tools() string         { return dlq.TransactionalID(s.Name) }
func (s Setup) verify() string        { return "outbox-" + s.Name + "-verify" }
func (s Setup) state() string         { return dlq.StateTopic(s.Letters) }

// outputs is where events go: a topic, or the part of the template that all of
// its topics begin with.
func (s Setup) outputs() (name string, pattern Pattern) {
	if s.Template == "" {
		return s.Events, Literal
	}
	if at := strings.IndexAny(s.Template, "{$"); at > 0 {
		return s.Template[:at], Prefixed
	}
	return "*", Literal
}

func quoted(parts ...string) string { return pgx.Identifier(parts).Sanitize() }
