package eventstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Subscribe reads the log from a position and then waits for NOTIFY, or a
// tick. It holds one connection of its own, outside the pool, for as long as it
// runs.
func (d *Database) Subscribe(ctx context.Context, from Position, handle Handler) error {
	at, err := parseDatabasePosition(from)
	if err != nil {
		return err
	}
	w := &waker{db: d}
	defer w.close()
	for {
		page, _, err := d.nextPatiently(ctx, at)
		if err != nil {
			return err
		}
		for _, ev := range page {
			if err := deliver(ctx, handle, ev.Recorded); err != nil {
				return err
			}
			at = ev.at
		}
		if len(page) == pageSize {
			continue
		}
		if err := w.wait(ctx, at); err != nil {
			return err
		}
	}
}

// deliver calls the handler. An error of it ends the subscription: only the
// handler's owner knows whether trying again helps.
func deliver(ctx context.Context, handle Handler, ev Recorded) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := handle(ctx, ev); err != nil {
		return fmt.Errorf("handle version %d of stream %q: %w", ev.Version, ev.Stream, err)
	}
	return nil
}

// Lost connections are tried again after 100 ms, 200 ms ... 5 s.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// nextPatiently is next that waits out a server that cannot be reached.
func (d *Database) nextPatiently(ctx context.Context, at place) ([]writtenEvent, uint64, error) {
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		page, h, err := d.next(ctx, at, pageSize)
		switch {
		case err == nil:
			if delay > firstRetry {
				d.log.Info("subscription goes on")
			}
			return page, h, nil
		case ctx.Err() != nil:
			return nil, 0, context.Cause(ctx)
		case !passing(err):
			return nil, 0, fmt.Errorf("read the log: %w", err)
		case delay == firstRetry:
			d.log.Warn("subscription waits for Postgres", "error", err)
		}
		if err := sleep(ctx, delay); err != nil {
			return nil, 0, err
		}
	}
}

// passing tells whether an error is one of the connection: no answer at all,
// or the answer of a server that is about to go or to come.
func passing(err error) bool {
	var position *PositionError
	var log *LogError
	var scan pgx.ScanArgError
	var number *strconv.NumError
	if errors.As(err, &position) || errors.As(err, &log) || errors.As(err, &scan) || errors.As(err, &number) {
		return false // the answer is there; it is not one of our table
	}
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		return true
	}
	switch {
	case strings.HasPrefix(said.Code, "08"), // connection exceptions
		strings.HasPrefix(said.Code, "57P"), // shutdown, crash, starting up
		strings.HasPrefix(said.Code, "53"),  // out of connections, memory, disk
		said.Code == "25006":                // a standby, before its promotion
		return true
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// waker waits until there may be something new to read. NOTIFY is a hint and
// nothing more: it may come late, too often, or not at all.
type waker struct {
	db    *Database
	conn  *pgx.Conn // nil: not listening
	retry time.Time // when to try to listen again
}

// hiddenRetry is the first wait for events that are committed but still behind
// an open transaction. Its end brings no NOTIFY, unless it appends too.
const hiddenRetry = 5 * time.Millisecond

// wait returns when somebody has appended, an event behind the place has come
// out from behind the horizon, or the tick is over.
func (w *waker) wait(ctx context.Context, at place) error {
	if hidden, err := w.db.hidden(ctx, at); err == nil && hidden {
		return w.waitHidden(ctx, at)
	}
	if w.listen(ctx) {
		return nil // what came before LISTEN was not announced: read again
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if w.conn == nil {
		return sleep(ctx, w.db.cfg.Tick)
	}
	tick, cancel := context.WithTimeout(ctx, w.db.cfg.Tick)
	defer cancel()
	_, err := w.conn.WaitForNotification(tick)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && tick.Err() == nil {
		w.close() // the reading finds out what is wrong
	}
	return nil
}

func (w *waker) waitHidden(ctx context.Context, at place) error {
	for delay := hiddenRetry; ; delay = min(2*delay, w.db.cfg.Tick) {
		if err := sleep(ctx, delay); err != nil {
			return err
		}
		page, _, err := w.db.next(ctx, at, 1)
		if err != nil || len(page) > 0 {
			return nil
		}
	}
}

// listen opens the connection. It returns true if it has just done so.
func (w *waker) listen(ctx context.Context) bool {
	if w.conn != nil || w.db.cfg.NoNotify || time.Now().Before(w.retry) {
		return false
	}
	w.retry = time.Now().Add(lastRetry)
	pooled, err := w.db.pool.Acquire(ctx)
	if err != nil {
		return false
	}
	conn := pooled.Hijack() // its LISTEN must not go back into the pool
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{w.db.cfg.Channel}.Sanitize()); err != nil {
		w.conn = conn
		w.close()
		return false
	}
	w.conn = conn
	return true
}

func (w *waker) close() {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	w.conn.Close(ctx) // a server that has gone is why
	w.conn = nil
}
