package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// How long the end may take: after a run that was let finish, and after an
// interrupt, which has promised to be quick.
const (
	drainStall   = 20 * time.Second // nothing arrived for so long
	patientEnd   = 90 * time.Second
	hurriedDrain = 300 * time.Millisecond
	hurriedEnd   = 1200 * time.Millisecond
)

// judge waits until everything committed has arrived, stops the relay, reads
// what is left and compares. After that nothing can change the verdict.
func (d *demo) judge(caller context.Context) (*result, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(caller), patientEnd)
	defer cancel()
	// An interrupt, also one that comes now, leaves a little time to end well.
	hurry := context.AfterFunc(caller, func() { time.AfterFunc(hurriedEnd, cancel) })
	defer hurry()
	d.enter("draining")
	settleErr := d.settleDoubts(ctx)
	drained := d.awaitDrain(ctx, caller)
	stopErr := d.relay.stop(ctx)
	d.enter("checking")
	w := d.witness.Load()
	readErr := errors.Join(
		w.visible.awaitEnd(ctx, d.names.events, d.names.dlq),
		w.physical.awaitEnd(ctx, d.names.events),
	)
	interrupted := caller.Err() != nil
	if !interrupted {
		if err := errors.Join(settleErr, stopErr, readErr); err != nil {
			return nil, err
		}
	}
	s := d.ledger.state()
	return &result{
		state: s, interrupted: interrupted && !drained, inProcess: d.broker.inProcess(),
		kills: int(d.kills.Load()), first: d.sinceStart(s.First), kept: d.kept(),
	}, nil
}

func (d *demo) awaitDrain(ctx, caller context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hurry := context.AfterFunc(caller, func() { time.AfterFunc(hurriedDrain, cancel) })
	defer hurry()
	if d.relay.child == nil {
		return false // interrupted between a kill and the restart
	}
	gone := d.relay.child.gone
	go func() { // a relay that ended will bring nothing more
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return d.ledger.awaitEmpty(ctx, d.cfg.stall)
}

// settleDoubts asks the table about transactions whose COMMIT was not
// answered. The table is the truth: an outbox row exists iff it was committed.
func (d *demo) settleDoubts(ctx context.Context) error {
	ids := d.ledger.inDoubt()
	if len(ids) == 0 {
		return nil
	}
	rows, err := d.db.Query(ctx, "SELECT id::text FROM "+pgx.Identifier{d.names.schema, "events"}.Sanitize()+" WHERE id::text = ANY($1)", texts(ids))
	if err != nil {
		return fmt.Errorf("look up transactions in doubt: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look up transactions in doubt: %w", err)
	}
	found := map[string]bool{}
	for _, id := range there {
		found[id] = true
	}
	for _, id := range ids {
		d.ledger.resolve(id, found[id.String()])
	}
	return nil
}
