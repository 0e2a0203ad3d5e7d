package eventstore

import (
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/holdwall/outbox-relay/outbox"
)

// DatabaseConfig says where a Database keeps its events. The zero value is the
// default tables.
type DatabaseConfig struct {
	// Table of the log, as outbox.ParseTable reads it; "" is DefaultTable.
	Table string
	// Outbox writes the rows that the relay publishes; nil writes to
	// outbox.DefaultTable. Its table needs the columns payload_bytes, headers,
	// content_type and created_at, unless Publish clears what goes there.
	Outbox *outbox.Writer
	// Publish may change the outbox row of an event before it is written: its
	// topic, its aggregate type, or the headers that a small table has no
	// column for. If it returns false there is no row and the event is never
	// published. A Hybrid needs every event published with its headers, its
	// payload as it is and the stream as aggregate id.
	Publish func(ev Recorded, row *outbox.Record) bool
	// Channel of NOTIFY, by which appenders wake subscribers; "" is
	// "outbox_event_log". Postgres commits transactions that notify one at a
	// time; see NoNotify.
	Channel string
	// NoNotify leaves the waking to Tick. It is for logs with thousands of
	// appends per second, where the lock that a notifying commit takes shows.
	NoNotify bool
	// Tick is how long a subscription waits at most before it looks again; 0 is
	// one second. It is the safety net of NOTIFY, which is lost with its
	// connection.
	Tick time.Duration
	// Logger hears of lost connections; nil is silence.
	Logger *slog.Logger
}

// Database is the store in Postgres. It keeps no state between calls and is
// safe for concurrent use. It does not close the pool.
type Database struct {
	pool   *pgxpool.Pool
	cfg    DatabaseConfig
	table  string // quoted
	name   string // for messages
	writer *outbox.Writer
	log    *slog.Logger
}

const (
	defaultChannel = "outbox_event_log"
	defaultTick    = time.Second
)

// NewDatabase returns a store. It does not touch the database: Schema creates
// the tables.
func NewDatabase(pool *pgxpool.Pool, cfg DatabaseConfig) (*Database, error) {
	if cfg.Table == "" {
		cfg.Table = DefaultTable
	}
	t, err := outbox.ParseTable(cfg.Table)
	if err != nil {
		return nil, err
	}
	if cfg.Outbox == nil {
		if cfg.Outbox, err = outbox.NewWriter(outbox.DefaultTable, outbox.DefaultColumns()); err != nil {
			return nil, err
		}
	}
	if cfg.Channel == "" {
		cfg.Channel = defaultChannel
	}
	if cfg.Tick <= 0 {
		cfg.Tick = defaultTick
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Database{
		pool: pool, cfg: cfg, table: t.SQL(), name: t.String(),
		writer: cfg.Outbox, log: cfg.Logger.With("component", "eventstore", "table", t.String()),
	}, nil
}

// Capabilities of a Database: everything, and no Kafka.
func (d *Database) Capabilities() Capabilities {
	return Capabilities{CallerTransaction: true, TotalOrder: true, TotalSubscribe: true, ExactResume: true, UniqueIDs: true}
}
