package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
)

const (
	// transactionTimeout is how long readers wait for what a member that
	// crashed left open. Nothing waits inside a transaction here: events are
	// transformed before it begins.
	transactionTimeout = 30 * time.Second

	// reopenPause follows a session that ended with an error.
	reopenPause = time.Second

	endTimeout = transactionTimeout
)

// runTransform runs sessions until ctx ends. Any error of a transaction ends
// its session: whether it was committed is known to the brokers alone, and the
// next session begins by asking them. It fences this one's transactions and
// starts at the offsets that are committed.
func (c *Consumer) runTransform(ctx context.Context) error {
	run, end := context.WithCancelCause(ctx)
	defer end(nil)
	c.end = end
	id := c.cfg.TransactionalID
	if id == "" {
		id = c.cfg.Group + "-" + c.cfg.InstanceID
		if c.cfg.InstanceID == "" {
			id += uuid.NewString()
		}
	}
	close(c.started)
	for {
		err := c.transformSession(run, id)
		switch {
		case ctx.Err() != nil:
			return nil
		case run.Err() != nil:
			return context.Cause(run)
		}
		c.log.Warn("transaction session ended, another begins", slog.Any("error", err))
		if !sleep(run, reopenPause) && ctx.Err() != nil {
			return nil
		}
	}
}

// transformer is one session: one client, one producer epoch.
type transformer struct {
	c       *Consumer
	session *kgo.GroupTransactSession
	tally   tally

	refusals refusals // of the goroutine that polls; workers only read

	mu     sync.Mutex
	moved  bool               // partitions went since the last poll
	cancel context.CancelFunc // of the batch under way: its partitions are going
}

func (c *Consumer) transformSession(ctx context.Context, id string) error {
	t := &transformer{c: c}
	session, err := kgo.NewGroupTransactSession(append(c.cfg.options(),
		kgo.TransactionalID(id), kgo.TransactionTimeout(transactionTimeout),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, tps map[string][]int32) { t.rebalanced(assigned, tps) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, tps map[string][]int32) { t.rebalanced(taken, tps) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, tps map[string][]int32) { t.rebalanced(lostName, tps) }),
	)...)
	if err != nil {
		err = fmt.Errorf("open the consumer's client: %w", err)
		c.end(err)
		return err
	}
	t.session = session
	defer session.CloseAllowingRebalance()
	// The fence comes before the first poll. It ends what this id left open, for
	// which the group's offsets would else wait until the transaction times out.
	if _, _, err := session.Client().ProducerID(ctx); err != nil {
		return fmt.Errorf("fence the transactional id: %w", err)
	}
	for {
		err := t.round(ctx)
		t.tally.flush(c.metrics)
		if err != nil {
			return err
		}
	}
}

// rebalanced ends a batch whose partitions go: its transaction would be aborted
// anyway.
func (t *transformer) rebalanced(kind string, tps map[string][]int32) {
	if len(tps) == 0 {
		return
	}
	t.c.metrics.rebalances.WithLabelValues(kind).Inc()
	t.c.log.Info("partitions "+kind, slog.Any("partitions", tps))
	if kind == assigned {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moved = true
	if t.cancel != nil {
		t.cancel()
	}
}

var errStopped = errors.New("stopped")

// round is one transaction: poll, transform, produce, commit.
func (t *transformer) round(ctx context.Context) error {
	c := t.c
	poll, err := c.draining.enter(ctx)
	if err != nil {
		return err
	}
	defer c.draining.leave()
	batch, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	t.cancel = cancel
	if t.moved {
		t.moved, t.refusals = false, refusals{} // or it would wait for what others handle
	}
	t.mu.Unlock()

	most := c.cfg.MaxInFlight
	if t.refusals.alone() {
		most = 1
	}
	fetched := t.session.PollRecords(poll, most)
	t.session.AllowRebalance() // the session aborts what a rebalance overtakes
	fatal, noisy := c.pollErrors(ctx, fetched)
	if fatal != nil {
		c.end(fatal)
		return fatal
	}
	if noisy && !sleep(ctx, pollPause) {
		return errStopped
	}
	recs := fetched.Records()
	if len(recs) == 0 {
		return ctx.Err()
	}
	var bytes int64
	for _, r := range recs {
		bytes += sizeOf(r)
	}
	c.sched.admit(int64(len(recs)), bytes)
	defer c.sched.release(int64(len(recs)), bytes)

	results := t.transform(batch, recs)
	commit := batch.Err() == nil
	var gaveUp *GaveUpError
	for i := range results {
		if results[i].err != nil {
			commit = false
			if errors.As(results[i].err, &gaveUp) {
				c.end(gaveUp)
			}
		}
	}
	return t.commit(ctx, recs, results, commit)
}

// commit produces the results and ends the transaction with the offsets.
func (t *transformer) commit(ctx context.Context, recs []*kgo.Record, results []result, commit bool) error {
	c := t.c
	if err := t.session.Begin(); err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	var (
		failed error
		wrong  []bad
	)
	if commit {
		var flushed bool
		wrong, flushed, failed = t.produce(ctx, results)
		commit = flushed && failed == nil
	}
	// Cancelled in the middle, the end of a transaction is unknown by our own
	// hand.
	endCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	ok, err := t.session.End(endCtx, kgo.TransactionEndTry(commit))
	switch {
	case err != nil:
		c.metrics.transacts.WithLabelValues("unknown").Inc()
		return fmt.Errorf("end a transaction: %w", errors.Join(err, failed))
	case !ok:
		c.metrics.transacts.WithLabelValues("aborted").Inc()
		if len(wrong) > 0 {
			return t.blame(recs, results, wrong)
		}
		if failed != nil {
			return fmt.Errorf("produce in a transaction: %w", failed)
		}
		return ctx.Err()
	}
	c.metrics.transacts.WithLabelValues("committed").Inc()
	t.refusals.passed(recs)
	for i := range results {
		results[i].count(c, &t.tally)
	}
	return ctx.Err()
}

// produce sends the results and waits for them. Of what failed, it returns apart
// what was refused for the record's own sake.
func (t *transformer) produce(ctx context.Context, results []result) (wrong []bad, flushed bool, failed error) {
	var mu sync.Mutex
	alone := t.refusals.alone()
	client := t.session.Client()
	topicless := client.OptValue(kgo.DefaultProduceTopic) == ""
	for i := range results {
		for _, r := range results[i].out {
			note := func(_ *kgo.Record, err error) {
				if err == nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				failed = errors.Join(failed, err)
				if refused(err) {
					wrong = append(wrong, bad{i, r.Topic, err})
				}
			}
			if r.Topic == "" && topicless {
				note(r, errNoTopic)
				continue
			}
			t.session.Produce(ctx, r, note)
			if !alone {
				continue
			}
			if client.Flush(ctx) != nil {
				break
			}
		}
	}
	flushed = client.Flush(ctx) == nil
	mu.Lock()
	defer mu.Unlock()
	return wrong, flushed, failed
}

// result of one event: records to produce, and what to count once they are
// committed.
type result struct {
	out    []*kgo.Record
	reason dlq.Reason // of a letter
	skip   int        // index of skipNames, or -1
	ok     bool
	err    error // not to be committed
}

func (r *result) count(c *Consumer, t *tally) {
	switch {
	case r.reason != "":
		c.metrics.letters.WithLabelValues(string(r.reason)).Inc()
	case r.skip >= 0:
		t.skipped[r.skip]++
	case r.ok:
		t.ok++
	}
}

// transform calls Config.Transform for all records, the keys of a partition
// side by side and each in order. Results are in the order of the records.
func (t *transformer) transform(ctx context.Context, recs []*kgo.Record) []result {
	type place struct {
		topic string
		part  int32
		key   string
	}
	results := make([]result, len(recs))
	lines := map[place][]int{}
	var order []place
	for i, r := range recs {
		results[i].skip = -1
		if r.Attrs.IsControl() {
			continue
		}
		k := place{r.Topic, r.Partition, keyOf(r)}
		if lines[k] == nil {
			order = append(order, k)
		}
		lines[k] = append(lines[k], i)
	}
	next := make(chan place)
	var workers sync.WaitGroup
	tallies := make([]tally, min(t.c.cfg.Concurrency, len(order)))
	for w := range tallies {
		workers.Go(func() {
			one := &transformWorker{c: t.c, refusals: &t.refusals, tally: &tallies[w]}
			for k := range next {
				for _, i := range lines[k] {
					if results[i] = one.event(ctx, recs[i]); results[i].err != nil {
						break
					}
				}
			}
		})
	}
	for _, k := range order {
		next <- k
	}
	close(next)
	workers.Wait()
	for i := range tallies {
		tallies[i].flush(t.c.metrics)
	}
	return results
}
