package dlq

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// TransactionalID is shared by all that touches letters for a relay: whoever
// comes later fences whoever is at it, so that only one decides at a time.
func TransactionalID(name string) string { return "outbox-" + name + "-tools" }

// session holds the transactional id. It ends with the first error of a
// transaction: what then became of the letters is read by the next one.
type session struct {
	*Replayer
	log     zerolog.Logger
	cl      *kgo.Client
	adm     *kadm.Client
	targets *targets
	open    bool
}

// begin fences whoever was there before, and then reads all that was marked.
// InitProducerID answers only when the transaction of the predecessor is
// decided and its markers are written, so the end of the state topic that is
// asked for behind it is behind everything that anybody else has done; and
// what that other one tries from here on is refused.
func (r *Replayer) begin(ctx context.Context) (*session, error) {
	s := &session{Replayer: r, log: r.Log, targets: newTargets(r.Denied)}
	cl, err := r.View.client(
		kgo.TransactionalID(TransactionalID(r.Name)),
		kgo.TransactionTimeout(r.TransactionTimeout),
		// The client hides a lost answer of EndTxn behind retries of its own,
		// and doubt has to be seen as doubt.
		kgo.RetryTimeoutFn(func(key int16) time.Duration {
			if key == endTxn {
				return time.Millisecond
			}
			return requestRetry
		}),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(r.Partitioner),
		kgo.ProducerBatchMaxBytesFn(s.targets.batchLimit),
		kgo.ManualFlushing(),
		kgo.MaxBufferedRecords(2*maxBatch+1),
	)
	if err != nil {
		return nil, err
	}
	s.cl, s.adm = cl, kadm.NewClient(cl)
	s.targets.adm = s.adm
	if _, _, err := cl.ProducerID(ctx); err != nil {
		s.close()
		return nil, kafka.Classify("take over transactional id "+TransactionalID(r.Name), err)
	}
	// What a produce to it would be refused for must not be taken for a fault
	// of a letter.
	state, err := s.targets.get(ctx, StateTopic(r.View.Topic))
	if err == nil && state.no != nil {
		err = state.no
	}
	if err == nil {
		err = r.View.settle(ctx, s.adm, r.TransactionTimeout)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

var endTxn = kmsg.NewPtrEndTxnRequest().Key()

const requestRetry = 30 * time.Second // the client's own default

// refusedError says that a broker refused records for what they are, or for
// where they go. Nothing was committed.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return "records refused: " + e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// commit is one transaction: all of the records, or none. Then the marks are
// read back: what is not among them was not committed, whatever was answered.
func (s *session) commit(ctx context.Context, records []*kgo.Record) error {
	if err := s.cl.BeginTransaction(); err != nil {
		return kafka.Classify("begin transaction", err)
	}
	s.open = true
	var (
		mu    sync.Mutex
		acked int
		first error // that was answered; what follows it fails for its sake
	)
	for _, rec := range records {
		// A produce is never cancelled: a batch that was sent and given up on
		// may be written all the same. The time-out below ends the whole.
		s.cl.Produce(context.WithoutCancel(ctx), rec, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				acked++
			} else if first == nil || refused(err) && !refused(first) {
				first = err
			}
		})
	}
	fctx, cancel := context.WithTimeout(ctx, s.TransactionTimeout/2)
	defer cancel()
	flushed := s.cl.Flush(fctx)
	mu.Lock()
	n, bad := acked, first
	mu.Unlock()
	switch {
	case bad != nil && refused(bad):
		return &refusedError{bad}
	case bad != nil:
		return s.named("produce", bad)
	case flushed != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case flushed != nil:
		return fault.Wrap(flushed, fault.KafkaUnavailable, "%d of %d records acknowledged within half of the transaction time-out", n, len(records))
	case n != len(records):
		return fault.New(fault.Unclassified, "%d of %d records acknowledged", n, len(records))
	}
	// The client releases records of a topic that is new to it before it has
	// stored the topic's partitions, and would take a transaction that is
	// acknowledged in between for an empty one (kgo 1.22.2). This call takes
	// the lock under which it stores; it has nothing else to do.
	if err := s.cl.AbortBufferedRecords(fctx); err != nil {
		return s.named("flush", err)
	}
	s.open = false
	if err := s.cl.EndTransaction(context.WithoutCancel(ctx), kgo.TryCommit); err != nil {
		if fault.Has(kafka.Classify("commit", err), fault.Fenced) {
			return s.named("commit", err)
		}
		return fault.Wrap(err, fault.OutcomeUnknown, "commit").WithFix("none needed: what became of the letters is read before anything else is done")
	}
	return s.View.settle(context.WithoutCancel(ctx), s.adm, s.TransactionTimeout)
}

// named gives an error its code. What the client cannot go on with is, here,
// nearly always another tool that has taken over.
func (s *session) named(op string, err error) error {
	err = kafka.Classify(op, err)
	switch {
	case fault.Has(err, fault.Fenced):
		return fault.Wrap(err, fault.ReplayFenced, "%s", op)
	case fault.Has(err, fault.Unclassified):
		return fault.Wrap(err, fault.TransactionFailed, "%s", op).WithFix("none needed: nothing was committed, and it is tried again")
	}
	return err
}

// refused tells whether an answer is about records or their topic: the rest can
// go on without them.
func refused(err error) bool {
	if !errors.As(err, new(*kerr.Error)) {
		return false
	}
	code := fault.CodeOf(kafka.Classify("", err))
	return code.Class == fault.Reject ||
		code == fault.KafkaTopicMissing || errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.PolicyViolation)
}

// close aborts what is open, briefly: left alone it would hide what comes after
// it from readers until the next fence or the time-out.
func (s *session) close() {
	if s.open {
		ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
		err := s.cl.AbortBufferedRecords(ctx)
		if err == nil {
			err = s.cl.EndTransaction(ctx, kgo.TryAbort)
		}
		if err != nil {
			s.log.Debug().Err(err).Msg("abort at close, left to the next fence")
		}
		cancel()
	}
	s.cl.Close()
}

const abortTimeout = 2 * time.Second
