package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/holdwall/outbox-relay/outbox"
)

const counterDDL = `CREATE SCHEMA IF NOT EXISTS outbox_load;
	CREATE TABLE IF NOT EXISTS outbox_load.counter (key text PRIMARY KEY, n bigint NOT NULL)`

// Prepare makes the counter table. Run needs it; it is apart so that a test
// can make it before faults begin.
func Prepare(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, counterDDL); err != nil {
		return fmt.Errorf("make the counter table: %w", err)
	}
	return nil
}

// Run writes until the transactions are done or the context ends, which is no
// error. A transaction under way when the context ends is finished, within the
// grace.
func Run(ctx context.Context, cfg Config) (Totals, error) {
	g, err := New(cfg)
	if err != nil {
		return Totals{}, err
	}
	return g.Run(ctx)
}

// Generator is Run with a look at what it does meanwhile.
type Generator struct {
	cfg    Config
	config *pgx.ConnConfig
	table  outbox.Table
	begun  atomic.Int64
	sofar  atomic.Int64 // rows committed
}

// New checks the configuration.
func New(cfg Config) (*Generator, error) {
	cfg, err := cfg.defaults()
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	config, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	table, err := outbox.ParseTable(cfg.Table)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return &Generator{cfg: cfg, config: config, table: table}, nil
}

// Committed returns how many rows are known to be committed so far.
func (g *Generator) Committed() int64 { return g.sofar.Load() }

// Run is as the function of the same name. It may be called once.
func (g *Generator) Run(ctx context.Context) (Totals, error) {
	var (
		mu     sync.Mutex
		totals Totals
	)
	group, ctx := errgroup.WithContext(ctx)
	for id := range g.cfg.Writers {
		group.Go(func() error {
			w := &writer{cfg: g.cfg, config: g.config, table: g.table, id: id, plan: newPlanner(g.cfg, id)}
			err := g.write(ctx, w)
			mu.Lock()
			defer mu.Unlock()
			totals.add(w.totals)
			return err
		})
	}
	err := group.Wait()
	return totals, err
}

func (g *Generator) write(ctx context.Context, w *writer) error {
	// What is under way outlives the context by the grace.
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(g.cfg.Grace):
			cancel(errors.New("the grace is over"))
		case <-late.Done():
		}
	})
	defer stop()
	defer func() {
		if w.conn == nil {
			return
		}
		if w.conn.IsClosed() && g.cfg.Mix.Prepared > 0 {
			_ = w.connect(late) // to settle what is prepared, if it can be
		}
		w.close()
	}()
	pause := rand.New(rand.NewPCG(g.cfg.Seed, ^uint64(w.id)))
	for ctx.Err() == nil {
		if n := g.cfg.Transactions; n > 0 && g.begun.Add(1) > int64(n) {
			return nil
		}
		if err := w.connect(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		before := w.totals.Rows
		if err := w.transact(late, w.plan.next()); err != nil {
			return err
		}
		g.sofar.Add(int64(w.totals.Rows - before))
		if g.cfg.Pause > 0 {
			select {
			case <-time.After(time.Duration(pause.Int64N(int64(g.cfg.Pause)))):
			case <-ctx.Done():
			}
		}
	}
	return nil
}
