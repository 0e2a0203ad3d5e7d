package sink

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// Producer writes one Kafka transaction at a time, for one session. Open
// fences every earlier owner of the same transactional id. Its methods are
// called by one goroutine, in the order Begin, Add..., Commit, ReadBack; after
// any error only Close may follow.
type Producer struct {
	cfg     Config
	log     zerolog.Logger
	metrics *Metrics

	cl   *kgo.Client
	tail *checkpoint.Tail

	open     bool // begun, and not asked to commit
	began    time.Time
	expected int64 // records added to the open transaction
	acked    atomic.Int64
	rejected rejects
	load     cargo
}

// Begin opens a transaction. Kafka is not told before the first Add.
func (p *Producer) Begin() error {
	if err := p.cl.BeginTransaction(); err != nil {
		return kafka.Classify("begin transaction", err)
	}
	p.open, p.began, p.expected = true, time.Now(), 0
	p.load.reset()
	p.acked.Store(0)
	p.rejected.reset()
	return nil
}

// Add puts a record into the open transaction. It does not wait for the
// broker; a failure is kept for Commit. The context of a produce is never
// cancellable: an idempotent batch that was sent and then cancelled may be
// written all the same (franz-go #1484). Deadlines are enforced by giving up
// the whole transaction.
func (p *Producer) Add(r *kgo.Record) {
	p.expected++
	p.load.add(r.Topic, len(r.Key)+len(r.Value))
	p.cl.Produce(context.Background(), r, p.promise)
	if p.expected == 1 {
		crash.Point(crash.GroupOpen)
	}
}

func (p *Producer) promise(r *kgo.Record, err error) {
	if err == nil {
		p.acked.Add(1)
		return
	}
	p.rejected.add(r, err)
}

// Commit seals the transaction with the checkpoint and asks Kafka to commit.
// nil means that Kafka said yes. Any error means that nothing is known: not
// that nothing was committed. The caller ends the session, and the next one
// reads what happened.
//
// The client commits whatever succeeded, if asked: a group with one good and
// one failed record was seen to commit. So every acknowledgement is required
// here, and their number compared with what was added.
func (p *Producer) Commit(ctx context.Context, ck checkpoint.Checkpoint) error {
	seal, err := ck.Record(p.cfg.CheckpointTopic, p.cfg.Name)
	if err != nil {
		return fault.Wrap(err, fault.Unclassified, "seal transaction")
	}
	p.Add(seal)
	crash.Point(crash.CheckpointAdded)
	if err := p.flush(ctx); err != nil {
		p.metrics.ended(resultAborted)
		return err
	}
	crash.Point(crash.BeforeEnd)
	flushed := time.Now()
	p.metrics.phase(phaseProduce, flushed.Sub(p.began))
	p.open = false
	// The context is not ours to cancel from here on: a commit that was sent
	// and given up on is a commit in doubt. The client's own request time-out
	// bounds it.
	if err := p.cl.EndTransaction(context.WithoutCancel(ctx), kgo.TryCommit); err != nil {
		if fault.Has(kafka.Classify("commit", err), fault.Fenced) {
			p.metrics.ended(resultFenced)
			return fault.Wrap(err, fault.Fenced, "commit checkpoint %d", ck.Seq)
		}
		p.metrics.ended(resultUnknown)
		return fault.Wrap(err, fault.OutcomeUnknown, "commit checkpoint %d", ck.Seq)
	}
	crash.Point(crash.AfterEnd)
	p.metrics.committed(ck.Rows, &p.load, time.Since(flushed))
	return nil
}

// flush sends what is buffered and requires that all of it was acknowledged.
func (p *Producer) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.TransactionTimeout/2)
	defer cancel()
	actx, stop := p.attend(ctx)
	err := p.cl.Flush(actx)
	stop()
	if err := p.rejected.cause(); err != nil {
		p.metrics.rejected(p.rejected.said())
		return err
	}
	if err != nil {
		if away := unreached(actx); away != nil {
			return fmt.Errorf("flush: %w", away)
		}
		if context.Cause(ctx) != nil && errors.Is(err, context.DeadlineExceeded) {
			return fault.Wrap(err, fault.KafkaUnreachable, "%d of %d records acknowledged within half of the transaction time-out", p.acked.Load(), p.expected)
		}
		return fmt.Errorf("flush: %w", err)
	}
	if n := p.acked.Load(); n != p.expected {
		return fault.New(fault.Unclassified, "%d of %d records acknowledged", n, p.expected)
	}
	// The client releases the records that wait for a topic new to it before it
	// stores that topic's partitions (storePartitionsUpdate in kgo 1.22.2). If
	// all is acknowledged in between, EndTransaction finds nothing that belongs
	// to the transaction, aborts it and returns nil. The lock under which the
	// client stores is taken by this call, which has nothing else to do: no
	// record is buffered any more.
	if err := p.cl.AbortBufferedRecords(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// ReadBack waits until a read_committed reader has seen the checkpoint. Only
// then may the slot be told, and only then may the next transaction begin: the
// markers of this one are written by then, so the next does not run into the
// broker's retry back-off of 20 ms (add.partitions.to.txn.retry.backoff.ms).
func (p *Producer) ReadBack(ctx context.Context, ck checkpoint.Checkpoint) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.ReadBackTimeout)
	defer cancel()
	ctx, stop := p.attend(ctx)
	began := time.Now()
	err := p.tail.Await(ctx, ck.SessionID, ck.Seq)
	stop()
	if err != nil {
		if away := unreached(ctx); away != nil {
			return fmt.Errorf("read back: %w", away)
		}
		return kafka.Classify("read back", err)
	}
	p.metrics.phase(phaseRead, time.Since(began))
	crash.Point(crash.ReadBack)
	return nil
}

// Close ends the clients. A transaction that is open and was not asked to
// commit is aborted first, briefly: left alone it would hide what comes after
// it from read_committed readers until the next fence or the time-out.
func (p *Producer) Close() {
	if p.open {
		ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
		if err := p.abort(ctx); err != nil {
			p.log.Debug().Err(err).Msg("abort at close, left to the next session's fence")
		}
		cancel()
	}
	if p.tail != nil {
		p.tail.Close()
	}
	p.cl.Close()
}

const abortTimeout = 2 * time.Second

func (p *Producer) abort(ctx context.Context) error {
	if err := p.cl.AbortBufferedRecords(ctx); err != nil {
		return err
	}
	return p.cl.EndTransaction(ctx, kgo.TryAbort)
}
