package replication

import (
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Config says which slot of which database to read.
type Config struct {
	// Conn reaches the database. Of several hosts the primary is used, for both
	// connections of a session; see Connect.
	Conn        *pgconn.Config
	Slot        string
	Publication string
	Schema      string // of the outbox table
	Table       string
	// MaxRowBytes bounds one replication message. A larger row halts the relay
	// by name (RowUnreadable) instead of taking all memory.
	MaxRowBytes int
	// QueueBytes bounds what is decoded and not yet taken by Next.
	QueueBytes int
	// StandbyPoll is how often a standby looks whether the slot is free.
	StandbyPoll time.Duration
	// StopGrace is how long a stopping Postgres is given to get its last
	// position confirmed before the relay leaves it. Longer than a commit,
	// shorter than the patience of whoever runs pg_ctl stop.
	StopGrace time.Duration
	// SenderTimeout is how long Postgres holds the slot for a session that it
	// does not hear of: the wal_sender_timeout that the session asks for, unless
	// the server's own is shorter. It bounds how long a holder that is frozen or
	// cut off keeps others waiting. 0 leaves the server's own.
	SenderTimeout time.Duration
	// Canary is how often a row is written that has to come back in the
	// stream; 0: never. See OBX-4211.
	Canary time.Duration
	// Reluctant tells whether this session could do nothing with the slot now.
	// Then others that wait for it go first. nil: never.
	Reluctant func() bool
	// OnStandby is told who holds the slot each time that changes. May be nil.
	OnStandby func(holder Holder)
}

// Defaults fills what was left zero.
func (c Config) Defaults() Config {
	if c.MaxRowBytes == 0 {
		c.MaxRowBytes = 64 << 20
	}
	if c.QueueBytes == 0 {
		c.QueueBytes = 4 << 20
	}
	if c.StandbyPoll == 0 {
		c.StandbyPoll = 250 * time.Millisecond
	}
	if c.StopGrace == 0 {
		c.StopGrace = 3 * time.Second
	}
	return c
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// Validate returns every problem of the configuration.
func (c Config) Validate() []*fault.Error {
	var bad []*fault.Error
	if !slotName.MatchString(c.Slot) {
		bad = append(bad, fault.New(fault.ConfigInvalid, "OUTBOX_SLOT %q", c.Slot).
			WithWhy("a slot name is 1 to 63 of lower-case letters, digits and underscore"))
	}
	if c.Publication == "" || strings.ContainsRune(c.Publication, 0) {
		bad = append(bad, fault.New(fault.ConfigInvalid, "OUTBOX_PUBLICATION %q", c.Publication))
	}
	return bad
}

// qualified is the table as SQL text.
func (c Config) qualified() string { return pgx.Identifier{c.Schema, c.Table}.Sanitize() }

// hosts splits a configuration of several hosts into one per host, so that
// both connections of a session reach the same server: a slot read on one
// host and a position read on another would be compared as if they were one
// history. TLS fallbacks of the same host stay together.
func hosts(c *pgconn.Config) []*pgconn.Config {
	type address struct {
		host string
		port uint16
	}
	var order []address
	byHost := map[address]*pgconn.Config{}
	add := func(f *pgconn.FallbackConfig) {
		a := address{f.Host, f.Port}
		if one, ok := byHost[a]; ok {
			one.Fallbacks = append(one.Fallbacks, f)
			return
		}
		one := c.Copy()
		one.Host, one.Port, one.TLSConfig, one.Fallbacks = f.Host, f.Port, f.TLSConfig, nil
		// We ask pg_is_in_recovery() ourselves, with a named error.
		one.ValidateConnect = nil
		byHost[a], order = one, append(order, a)
	}
	add(&pgconn.FallbackConfig{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig})
	for _, f := range c.Fallbacks {
		add(f)
	}
	all := make([]*pgconn.Config, 0, len(order))
	for _, a := range order {
		all = append(all, byHost[a])
	}
	return all
}

// sessionSettings make the text form of values independent of what a role or
// a database has set: the decoder reads exactly these forms, and the warning
// with which Postgres 18 skips rows has to arrive.
var sessionSettings = map[string]string{
	"client_encoding":     "UTF8",
	"DateStyle":           "ISO, YMD",
	"IntervalStyle":       "postgres",
	"TimeZone":            "UTC",
	"bytea_output":        "hex",
	"extra_float_digits":  "1",
	"client_min_messages": "warning",
}
