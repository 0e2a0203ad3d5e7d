package eventstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lane is one partition as this store sees it. Whoever has the turn owns all
// of it.
type lane struct {
	k         *Kafka
	partition int32
	turn      chan struct{}
	closed    bool

	index  *index
	reader *kgo.Client // reads at index.next; nil: none
	writer *kgo.Client // has the lease, until another takes it; nil: none
}

func newLane(k *Kafka, p int32) *lane {
	return &lane{k: k, partition: p, turn: make(chan struct{}, 1), index: newIndex(k.cfg.MaxStreams, k.cfg.DuplicateWindow)}
}

var errClosed = errors.New("the event store is closed")

func (l *lane) take(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if l.closed {
		l.give()
		return errClosed
	}
	return nil
}

func (l *lane) give() { <-l.turn }

// Fenced appenders wait before they fence in turn, or nobody would ever get as
// far as a commit: a random time of up to 20, 40, 80 ... 1280 ms.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 1280 * time.Millisecond
)

// append is the loop around lease, look and transaction. Whatever goes wrong
// ends the lease, and taking it again settles what was under way: the fence
// aborts what is open, and what is committed is read before anything is
// decided. So a commit in doubt is never interpreted here.
func (l *lane) append(ctx context.Context, stream string, expected ExpectedVersion, events []Event) (int64, error) {
	var doubt error
	give := func(err error) (int64, error) {
		if doubt != nil {
			return 0, &OutcomeUnknown{Stream: stream, Err: errors.Join(doubt, err)}
		}
		return 0, err
	}
	for attempt := range l.k.cfg.Attempts {
		if attempt > 0 {
			pause := min(firstPause<<min(attempt-1, 16), lastPause)
			if err := sleep(ctx, rand.N(pause)); err != nil {
				return give(err)
			}
		}
		err := l.lease(ctx)
		if err != nil {
			l.dropWriter()
			if again(err) && ctx.Err() == nil {
				continue
			}
			return give(err)
		}
		version, done, err := l.look(ctx, stream, expected, events)
		if err != nil && !settled(err) {
			l.dropWriter()
			return give(err)
		}
		if done || err != nil {
			return version, err
		}
		inDoubt, err := l.write(ctx, stream, version, events)
		if err == nil {
			return version + int64(len(events)), nil
		}
		l.dropWriter()
		l.k.log.Info("lease lost", "partition", l.partition, "attempt", attempt+1, "in_doubt", inDoubt, "error", err)
		if inDoubt {
			doubt = err
		} else if !again(err) {
			return give(fmt.Errorf("append to stream %q: %w", stream, err))
		}
	}
	return give(fmt.Errorf("append to stream %q: %w", stream, ErrContended))
}

// settled tells a decision from a failure.
func settled(err error) bool {
	var conflict *VersionConflict
	var duplicate *DuplicateEvent
	return errors.As(err, &conflict) || errors.As(err, &duplicate)
}

// again tells whether another attempt may go better: after having been fenced,
// and after whatever the client takes for passing.
func again(err error) bool {
	var said *kerr.Error
	if !errors.As(err, &said) {
		return errors.Is(err, errNotThere)
	}
	switch said {
	case kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState,
		kerr.UnknownProducerID, kerr.OutOfOrderSequenceNumber, kerr.TransactionAbortable, kerr.ConcurrentTransactions:
		return true
	}
	return said.Retriable
}

// look decides with what is known. The version is the stream's head, or, if
// nothing is left to do, the result.
//
// While the lease is held the index is complete: nobody else could append. But
// whether it is still held shows only when something is written. So a refusal,
// which writes nothing, is checked against the topic first.
func (l *lane) look(ctx context.Context, stream string, expected ExpectedVersion, events []Event) (version int64, done bool, err error) {
	h, err := l.recall(ctx, stream)
	if err != nil {
		return 0, false, err
	}
	version, done, err = decide(stream, expected, events, h.version, l.index.find(stream, events))
	if err == nil && !done {
		return h.version, false, nil
	}
	if err == nil {
		return version, true, nil
	}
	known := l.index.next
	if err := l.refresh(ctx); err != nil {
		return 0, false, err
	}
	if l.index.next == known {
		return 0, false, err
	}
	if h, err = l.recall(ctx, stream); err != nil {
		return 0, false, err
	}
	version, done, err = decide(stream, expected, events, h.version, l.index.find(stream, events))
	if err == nil && !done {
		version = h.version
	}
	return version, done, err
}

// errNotThere is a commit that Kafka answered with yes, and of which nothing
// can be read.
var errNotThere = errors.New("the committed events cannot be read")

// write is one Kafka transaction and its reading back. inDoubt tells that it
// was asked to commit: then no error says that it did not.
func (l *lane) write(ctx context.Context, stream string, head int64, events []Event) (inDoubt bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.k.cfg.Timeout)
	defer cancel()
	if err := l.writer.BeginTransaction(); err != nil {
		return false, fmt.Errorf("begin transaction: %w", err)
	}
	records := make([]*kgo.Record, len(events))
	for i := range events {
		records[i] = toRecord(l.k.cfg.Topic, l.partition, stream, head+1+int64(i), &events[i])
	}
	if err := l.produce(ctx, records); err != nil {
		l.abort()
		return false, fmt.Errorf("produce: %w", err)
	}
	// With a topic that is new to the client the acknowledgements can come
	// before the client has stored that it produced there, and EndTransaction
	// would then abort and return nil (kgo 1.22.2). This takes the lock under
	// which it stores. The reading back would notice besides.
	if err := l.writer.AbortBufferedRecords(ctx); err != nil {
		return false, fmt.Errorf("flush: %w", err)
	}
	if err := l.writer.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return true, fmt.Errorf("commit: %w", err)
	}
	// Read back for three reasons: whoever gets the version may load it at
	// once, the index has one way to grow, and the next transaction does not
	// run into the broker's back-off for markers not yet written.
	last := records[len(records)-1]
	if err := l.advance(ctx, last.Offset+1); err != nil {
		return true, fmt.Errorf("read back: %w", err)
	}
	if found := l.index.find(stream, events[len(events)-1:]); len(found) == 0 {
		return true, errNotThere
	}
	return false, nil
}

// produce waits for every acknowledgement: the client would commit whatever
// succeeded. It waits on ctx by itself, because the client does not give up a
// batch that may have been written, however long the broker is silent.
func (l *lane) produce(ctx context.Context, records []*kgo.Record) error {
	acks := make(chan error, len(records)) // has room for all, so no promise blocks
	for _, r := range records {
		l.writer.Produce(context.Background(), r, func(_ *kgo.Record, err error) { acks <- err })
	}
	for range records {
		select {
		case err := <-acks:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// lease makes sure that this store is the partition's only writer, as far as
// it can know, and that the index holds all of the partition. InitProducerID
// answers when every predecessor is fenced and what it left open has ended, so
// the high watermark asked for after it covers all that anybody can have
// committed.
func (l *lane) lease(ctx context.Context) error {
	if l.writer != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.k.cfg.Timeout)
	defer cancel()
	id := l.k.cfg.TransactionalID + "-" + strconv.Itoa(int(l.partition))
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), l.k.cfg.Opts...),
		kgo.TransactionalID(id),
		kgo.TransactionTimeout(l.k.cfg.Timeout),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0),
		// A lost answer to a commit has to be seen: the client's own retry of
		// it could run into a fence and call a committed transaction fenced.
		kgo.RetryTimeoutFn(func(key int16) time.Duration {
			if key == endTxnKey {
				return time.Millisecond
			}
			return l.k.cfg.Timeout
		}),
	)...)
	if err != nil {
		return fmt.Errorf("make a producer: %w", err)
	}
	l.writer = cl
	if _, _, err := cl.ProducerID(ctx); err != nil {
		return fmt.Errorf("take transactional id %s: %w", id, err)
	}
	ends, err := l.k.ends(ctx, false)
	if err != nil {
		return err
	}
	return l.advance(ctx, ends[l.partition])
}

// endTxnKey is the api key of EndTxn.
const endTxnKey = 26

// abortTimeout bounds the abort of a transaction that nobody wants any more;
// the next fence does it as well.
const abortTimeout = 2 * time.Second

func (l *lane) abort() {
	ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
	defer cancel()
	if err := l.writer.AbortBufferedRecords(ctx); err == nil {
		err = l.writer.EndTransaction(ctx, kgo.TryAbort)
		if err != nil {
			l.k.log.Debug("abort left to the next fence", "partition", l.partition, "error", err)
		}
	}
}

func (l *lane) dropWriter() {
	if l.writer != nil {
		l.writer.Close()
		l.writer = nil
	}
}
