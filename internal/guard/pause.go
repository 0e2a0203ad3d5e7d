package guard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
)

// Every is the name under which all relays of a database are paused at once.
const Every = "*"

// Pause says who has paused a relay, and why.
type Pause struct {
	Relay  string    `json:"relay"` // or Every
	By     string    `json:"paused_by"`
	Reason string    `json:"paused_reason"`
	Since  time.Time `json:"paused_since"`
}

// Fault is the pause as what is the matter with a relay.
func (p Pause) Fault() *fault.Error {
	f := fault.New(fault.Paused, "paused by %s since %s: %s", p.By, p.Since.UTC().Format(time.RFC3339), p.Reason)
	if p.Relay == Every {
		f = f.WithFix("SELECT outbox.resume(), or outbox-relay resume --all: every relay of this database is paused")
	}
	return f
}

// pausing is the state of the switch. What the database says counts; local is
// for a database that has no switch.
type pausing struct {
	mu      sync.Mutex
	stored  *Pause
	local   *Pause
	changed chan struct{}
}

func (p *pausing) now() (*Pause, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stored != nil {
		return p.stored, p.changed
	}
	return p.local, p.changed
}

func (p *pausing) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pausing) setStored(now *Pause) {
	p.mu.Lock()
	same := (now == nil) == (p.stored == nil) && (now == nil || *now == *p.stored)
	p.mu.Unlock()
	if !same {
		p.set(func() { p.stored = now })
	}
}

// Paused returns who has paused this relay, or nil, and a channel that is
// closed at the next change. It may be called from any goroutine.
func (g *Guard) Paused() (*Pause, <-chan struct{}) { return g.pause.now() }

// Pause pauses this relay, on all its replicas and across restarts if the SQL
// surface is there, else in this process until it ends. It returns once the
// relay knows; a transaction that has begun is finished.
func (g *Guard) Pause(ctx context.Context, by, reason string) error {
	p, err := g.store(ctx, func(ctx context.Context, conn *pgx.Conn) (*Pause, error) {
		return SetPause(ctx, conn, g.cfg.Relay, by, reason)
	})
	switch {
	case fault.Has(err, fault.SQLSurfaceOff):
		g.pause.set(func() { g.pause.local = &Pause{Relay: g.cfg.Relay, By: by, Reason: reason, Since: time.Now()} })
		f := fault.As(err)
		g.cfg.Log.Warn().Fields(f.Fields()).Err(f).Str("by", by).Str("reason", reason).Msg("paused in this process only, until it ends")
		return nil
	case err != nil:
		return err // nothing flows without Postgres, and nobody would know of it afterwards
	}
	g.pause.setStored(p)
	g.cfg.Log.Info().Str("by", by).Str("reason", reason).Msg("paused")
	return nil
}

// Resume ends a pause of this relay. One of every relay is for who may resume
// them all, and is refused by name.
func (g *Guard) Resume(ctx context.Context, by string) error {
	g.pause.set(func() { g.pause.local = nil })
	p, err := g.store(ctx, func(ctx context.Context, conn *pgx.Conn) (*Pause, error) {
		return EndPause(ctx, conn, g.cfg.Relay)
	})
	switch {
	case fault.Has(err, fault.SQLSurfaceOff):
		return nil // then nothing is stored
	case err != nil:
		return err
	}
	g.pause.setStored(p)
	if p != nil {
		return p.Fault()
	}
	g.cfg.Log.Info().Str("by", by).Msg("resumed")
	return nil
}

// store works on a connection of its own: the guard's belongs to Run.
func (g *Guard) store(ctx context.Context, do func(context.Context, *pgx.Conn) (*Pause, error)) (*Pause, error) {
	ctx, cancel := context.WithTimeout(ctx, minPatience)
	defer cancel()
	srv, err := replication.Connect(ctx, g.cfg.Source)
	if err != nil {
		return nil, err
	}
	defer srv.Close()
	return do(ctx, srv.Conn())
}

// SetPause pauses a relay, or Every, in the database and returns what holds for
// it then.
func SetPause(ctx context.Context, conn *pgx.Conn, relay, by, reason string) (*Pause, error) {
	if _, err := conn.Exec(ctx, `SELECT outbox.pause($1, $2, $3)`, reason, relay, by); err != nil {
		return nil, surfaceFault(err, "pause %s", relay)
	}
	return ReadPause(ctx, conn, relay)
}

// EndPause resumes a relay, or Every, and returns what still holds for it: a
// pause of every relay is not ended by resuming one.
func EndPause(ctx context.Context, conn *pgx.Conn, relay string) (*Pause, error) {
	if _, err := conn.Exec(ctx, `SELECT outbox.resume($1)`, relay); err != nil {
		return nil, surfaceFault(err, "resume %s", relay)
	}
	return ReadPause(ctx, conn, relay)
}

// ReadPause returns what pauses a relay, or nil.
func ReadPause(ctx context.Context, conn *pgx.Conn, relay string) (*Pause, error) {
	rows, err := conn.Query(ctx, `SELECT relay, by, reason, since FROM outbox.relay_pause WHERE relay IN ($1, '*') ORDER BY since LIMIT 1`, relay)
	if err != nil {
		return nil, surfaceFault(err, "read outbox.relay_pause")
	}
	p, err := pgx.CollectOneRow(rows, func(row pgx.CollectableRow) (*Pause, error) {
		var p Pause
		err := row.Scan(&p.Relay, &p.By, &p.Reason, &p.Since)
		p.Since = p.Since.UTC()
		return &p, err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, surfaceFault(err, "read outbox.relay_pause")
	}
	return p, nil
}

// surfaceFault names what Postgres says of objects that are not there or may
// not be used.
func surfaceFault(err error, format string, args ...any) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "42501", "42P01", "42883", "3F000": // privilege, table, function, schema
			return fault.Wrap(err, fault.SQLSurfaceOff, "%s", fmt.Sprintf(format, args...))
		}
	}
	return replication.Classify(err, format, args...)
}
