package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// bulkRows is large enough for the relay to be inside its Kafka transaction
// when its first record has been seen, and small enough for one.
const bulkRows = 10000

// chaos kills the relay on purpose and shows how it comes back.
type chaos struct {
	relay     *relay
	generator *generator
	witness   *witness
	ledger    *ledger
	db        *pgx.Conn
	slot      string
	say       func(string)
	killed    func() // told of every kill

	rounds, kills int
}

// killTimes spreads kills over a run, with room before the first and after
// the last.
func killTimes(run time.Duration) []time.Duration {
	n := int(run / (6 * time.Second))
	switch {
	case n < 1:
		n = 1
	case n > 3 && run <= 30*time.Second:
		n = 3
	case run > 30*time.Second:
		n = int(run / (10 * time.Second))
	}
	times := make([]time.Duration, n)
	for i := range times {
		times[i] = run * time.Duration(i+1) / time.Duration(n+1)
	}
	return times
}

// round alternates the two kinds of kill, beginning with the telling one.
func (c *chaos) round(ctx context.Context) error {
	c.rounds++
	if c.rounds%2 == 0 {
		return c.killAnywhere(ctx)
	}
	return c.killInside(ctx)
}

// killInside kills the relay inside a Kafka transaction. Whether it came in
// time is known only afterwards; if not, it tries again.
func (c *chaos) killInside(ctx context.Context) error {
	const tries = 3
	for range tries {
		if inside, err := c.killWriting(ctx); inside || err != nil {
			return err
		}
	}
	return nil
}

// killWriting commits a large transaction and kills the relay the moment its
// first record is in Kafka, which is seldom after the relay has committed.
func (c *chaos) killWriting(ctx context.Context) (inside bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	c.ledger.outageBegins(time.Now())
	defer func() { c.ledger.outageEnds(time.Now()) }()
	key := fmt.Sprintf("bulk-%d", c.kills+1)
	seen := c.witness.watch(key, bulkRows)
	written := make(chan struct{})
	go func() {
		defer close(written)
		if err := c.generator.bulk(ctx, key, bulkRows); err != nil {
			fail(fmt.Errorf("write a large transaction: %w", err))
		}
	}()
	defer func() { fail(nil); <-written }()

	if err := c.await(ctx, seen.begun, "the relay to begin a large transaction"); err != nil {
		return false, err
	}
	at := time.Now()
	if err := c.killAndRestart(ctx, fmt.Sprintf("while it wrote a transaction of %s rows", grouped(bulkRows))); err != nil {
		return false, err
	}
	if err := c.await(ctx, seen.whole, "the large transaction"); err != nil {
		return false, err
	}
	took := time.Since(at)
	// What was aborted lies before what is visible, but the other reader may be
	// slower.
	if err := c.witness.physical.awaitEnd(ctx, c.witness.names.events); err != nil {
		return false, err
	}
	attempts, visible := c.witness.sighted(seen)
	if aborted := attempts - visible; aborted > 0 {
		c.say(fmt.Sprintf("all %s rows arrived %s after the kill; %s records of the first attempt stay hidden",
			grouped(visible), seconds(took), grouped(aborted)))
		return true, nil
	}
	c.say(fmt.Sprintf("all %s rows arrived; the relay had committed just before the kill", grouped(visible)))
	return false, nil
}

// await waits for something that a running relay brings about.
func (c *chaos) await(ctx context.Context, happens <-chan struct{}, what string) error {
	select {
	case <-happens:
		return nil
	case <-c.relay.child.gone:
		return c.relay.died()
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
	}
}

// killAnywhere kills the relay at a moment that has nothing to do with what it
// does.
func (c *chaos) killAnywhere(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c.ledger.outageBegins(time.Now())
	defer func() { c.ledger.outageEnds(time.Now()) }()
	return c.killAndRestart(ctx, "at a random moment")
}

func (c *chaos) killAndRestart(ctx context.Context, when string) error {
	if err := c.relay.kill(); err != nil {
		return err
	}
	c.kills++
	c.killed()
	at := time.Now()
	c.say(fmt.Sprintf("kill %d: SIGKILL to the relay %s", c.kills, when))
	killed := c.witness.checkpoint().SessionID
	s, err := lookAtSlot(ctx, c.db, c.slot)
	if err != nil {
		return fmt.Errorf("look at slot %s: %w", c.slot, err)
	}
	if err := c.relay.start(); err != nil {
		return err
	}
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	watching := make(chan struct{})
	go func(gone <-chan struct{}) {
		defer close(watching)
		select {
		case <-gone: // nobody is left to wait for
			cancel()
		case <-waiting.Done():
		}
	}(c.relay.child.gone)
	resumed, err := c.witness.awaitSession(waiting, killed)
	cancel()
	<-watching
	if err != nil && c.relay.isGone() {
		return c.relay.died()
	}
	if err != nil {
		return err
	}
	c.say(fmt.Sprintf("relay back and committing after %s; resumed at checkpoint %d, LSN %s; slot was at %s",
		seconds(time.Since(at)), resumed.Seq, resumed.Pos, s.confirmed))
	return nil
}
