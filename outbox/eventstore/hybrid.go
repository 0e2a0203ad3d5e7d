package eventstore

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// HybridConfig says where the relay publishes what the Database writes. Topics
// and Opts are needed.
type HybridConfig struct {
	// Topics are those in which the relay puts the events. They may hold other
	// records.
	Topics []string
	// Opts are brokers, TLS and SASL. Topics are read committed.
	Opts []kgo.Opt
	// Settle is how often a subscription that reads from Kafka compares what
	// it has seen with the database, by counting; 0 is 5 s. What was delivered
	// since may come again after a restart.
	Settle time.Duration
	// Patience is how long an event may be in the database before a
	// subscription that has not seen it in Kafka goes to the database for it;
	// 0 is 15 s.
	Patience time.Duration
	// Retry is how soon a subscription on the database tries Kafka again; 0 is
	// 5 s. It doubles, up to 5 minutes, as long as Kafka does not keep up.
	Retry time.Duration
	// MaxSeen bounds how many events are remembered between two settlements;
	// 0 is 100,000, which takes about 5 MB.
	MaxSeen int
	// Logger hears of every switch between Kafka and the database; nil is
	// silence.
	Logger *slog.Logger
}

const (
	defaultSettle   = 5 * time.Second
	defaultPatience = 15 * time.Second
	defaultRetry    = 5 * time.Second
	longestRetry    = 5 * time.Minute
	defaultSeen     = 100_000
)

// Hybrid is a Database whose subscriptions read from Kafka. Writing, loading
// and ReadAll are the Database's, and nothing of them needs Kafka. It is safe
// for concurrent use.
type Hybrid struct {
	db  *Database
	cfg HybridConfig
	log *slog.Logger
}

// NewHybrid puts a Hybrid on a Database.
func NewHybrid(db *Database, cfg HybridConfig) (*Hybrid, error) {
	if len(cfg.Topics) == 0 {
		return nil, errors.New("open event store: a hybrid one needs the topics of its events")
	}
	for _, d := range []struct {
		setting  *time.Duration
		standard time.Duration
	}{{&cfg.Settle, defaultSettle}, {&cfg.Patience, defaultPatience}, {&cfg.Retry, defaultRetry}} {
		if *d.setting <= 0 {
			*d.setting = d.standard
		}
	}
	if cfg.MaxSeen <= 0 {
		cfg.MaxSeen = defaultSeen
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Hybrid{db: db, cfg: cfg, log: cfg.Logger.With("component", "eventstore", "table", db.name)}, nil
}

// Append appends to the database; Kafka has no part in it.
func (h *Hybrid) Append(ctx context.Context, stream string, expected ExpectedVersion, events ...Event) (int64, error) {
	return h.db.Append(ctx, stream, expected, events...)
}

// AppendTx appends in the caller's transaction. See [Database.AppendTx].
func (h *Hybrid) AppendTx(ctx context.Context, tx pgx.Tx, stream string, expected ExpectedVersion, events ...Event) (int64, error) {
	return h.db.AppendTx(ctx, tx, stream, expected, events...)
}

// AppendSQL is AppendTx for database/sql.
func (h *Hybrid) AppendSQL(ctx context.Context, tx SQLTx, stream string, expected ExpectedVersion, events ...Event) (int64, error) {
	return h.db.AppendSQL(ctx, tx, stream, expected, events...)
}

// Load reads from the database, so it sees what was appended a moment ago.
func (h *Hybrid) Load(ctx context.Context, stream string, after int64) iter.Seq2[Recorded, error] {
	return h.db.Load(ctx, stream, after)
}

// ReadAll reads from the database: only there do all events have one order.
func (h *Hybrid) ReadAll(ctx context.Context, from Position, limit int) ([]Recorded, error) {
	return h.db.ReadAll(ctx, from, limit)
}

// Capabilities of a Hybrid: those of a Database, but that a subscription has
// the order of the topics and may repeat the last few events when it starts
// again.
func (h *Hybrid) Capabilities() Capabilities {
	return Capabilities{CallerTransaction: true, TotalOrder: true, UniqueIDs: true}
}

// Subscribe catches up from the database and then reads from Kafka. The
// database costs one small query per Settle while Kafka keeps up. When it does
// not, be it down, the relay be down, or an event be one that the relay could
// not publish, the subscription goes on from the database until it does. No
// event is left out or delivered twice by such a switch.
//
// Between settlements the Position of an event is that of the last settlement,
// behind which everything was delivered: one that starts again there may see
// some events again.
func (h *Hybrid) Subscribe(ctx context.Context, from Position, handle Handler) error {
	at, err := parseDatabasePosition(from)
	if err != nil {
		return err
	}
	s := &subscription{h: h, handle: handle, floor: at, seen: map[place]struct{}{}, waker: &waker{db: h.db}, retry: h.cfg.Retry}
	return s.run(ctx)
}

var (
	_ Store      = (*Hybrid)(nil)
	_ TxAppender = (*Hybrid)(nil)
	_ Store      = (*Database)(nil)
	_ TxAppender = (*Database)(nil)
)
