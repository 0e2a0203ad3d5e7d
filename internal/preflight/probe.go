package preflight

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// probeTimeout is after how long a broker ends a probe that was killed. Until
// then its open transaction hides what the relay commits behind it in the
// checkpoint topic, so it has to be well below the relay's patience for its
// read-back, which is half its transaction time-out of a minute. (Brokers look
// for such transactions every 10 s.)
const probeTimeout = 5 * time.Second

// transactionalID is none of the relay's, which would be fenced, and within the
// prefix that the relay's rights are granted for.
func (r *run) transactionalID() string { return "outbox-" + r.cfg.Name + "-verify" }

// probeKey is always the same, so that compaction leaves one record at most. It
// has to be a key that checkpoint.KindOf does not know.
func (r *run) probeKey() string { return "verify/" + r.cfg.Name }

// timeout takes the transactional id with the time-out that the relay asks for.
// That tests the right and the limit without any right to read the brokers'
// settings.
func (r *run) timeout(ctx context.Context, cl *kgo.Client, adm *kadm.Client) bool {
	rights := r.begin(rankRights+len(r.wanted())*problemRoom, StepRights, r.transactionalID())
	ctx, cancel := context.WithTimeout(ctx, r.request)
	defer cancel()
	id := r.transactionalID()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &id
	req.TransactionTimeoutMillis = int32(r.cfg.TransactionTimeout.Milliseconds())
	req.ProducerID, req.ProducerEpoch = -1, -1
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	took := time.Since(rights.since)
	s := r.begin(rankTimeout, StepTimeout, r.transactionalID())
	s.since = s.since.Add(-took)
	switch {
	case err == nil:
		rights.pass("write")
		s.pass(r.cfg.TransactionTimeout.String() + " is allowed")
		return true
	case errors.Is(err, kerr.InvalidTransactionTimeout):
		rights.pass("write")
		f := fault.As(kafka.Classify("ask for transactions of "+r.cfg.TransactionTimeout.String(), err))
		s.fail(f.WithWhy("the brokers allow %s", r.mostTimeout(ctx, adm)))
		// The probe asks for less and may well be allowed.
		return true
	}
	rights.fail(kafka.Classify("take transactional id "+id, err))
	s.skip("needs the transactional id")
	return false
}

// mostTimeout asks for the limit, for people.
func (r *run) mostTimeout(ctx context.Context, adm *kadm.Client) string {
	const unknown = "less"
	meta, err := adm.BrokerMetadata(ctx)
	if err != nil {
		return unknown
	}
	configs, err := adm.DescribeBrokerConfigs(ctx, meta.Brokers.NodeIDs()...)
	if err != nil {
		return unknown
	}
	for _, rc := range configs {
		for _, kv := range rc.Configs {
			if d, _, ok := ms(kv.MaybeValue()); kv.Key == "transaction.max.timeout.ms" && ok {
				return d.String() + " (transaction.max.timeout.ms)"
			}
		}
	}
	return unknown
}

// probe commits a record, aborts one, and commits a tombstone for both; a
// read_committed reader then has to see the first and the last, and not the
// one between.
func (r *run) probe(ctx context.Context, s *step, in []kafka.Endpoint) {
	ctx, cancel := context.WithTimeout(ctx, r.request)
	defer cancel()
	trail, err := r.write(ctx, in)
	if err == nil {
		err = r.readBack(ctx, in, trail)
	}
	if err != nil {
		s.fail(kafka.Classify("probe "+r.cfg.Topics.Checkpoint, err))
		return
	}
	s.pass(fmt.Sprintf("committed and read back in %s, aborted and not seen, in %s", short(trail.took), r.cfg.Topics.Checkpoint))
}

// trail is where the probe's records are.
type trail struct {
	committed, aborted, last int64
	took                     time.Duration // of the first transaction
}

func (r *run) write(ctx context.Context, in []kafka.Endpoint) (t trail, err error) {
	cl, err := r.client(r.cfg.Kafka, in,
		kgo.TransactionalID(r.transactionalID()), kgo.TransactionTimeout(min(probeTimeout, r.cfg.TransactionTimeout)),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return t, err
	}
	defer cl.Close()
	nonce := uuid.NewString()
	since := time.Now()
	if t.committed, err = r.transact(ctx, cl, []byte(nonce), kgo.TryCommit); err != nil {
		return t, err
	}
	t.took = time.Since(since)
	if t.aborted, err = r.transact(ctx, cl, []byte(nonce+" aborted"), kgo.TryAbort); err != nil {
		return t, err
	}
	t.last, err = r.transact(ctx, cl, nil, kgo.TryCommit)
	return t, err
}

// transact writes one record in a transaction and returns its offset. A
// transaction that was begun is ended, whatever happens: it must not stand in
// the relay's way until a broker ends it.
func (r *run) transact(ctx context.Context, cl *kgo.Client, value []byte, how kgo.TransactionEndTry) (int64, error) {
	if err := cl.BeginTransaction(); err != nil {
		return 0, err
	}
	rec := &kgo.Record{Topic: r.cfg.Topics.Checkpoint, Key: []byte(r.probeKey()), Value: value}
	err := cl.ProduceSync(ctx, rec).FirstErr()
	if err != nil {
		how = kgo.TryAbort
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	if ended := cl.EndTransaction(end, how); ended != nil && err == nil {
		err = ended
	}
	return rec.Offset, err
}

// readBack reads from the first record of the probe to the last.
func (r *run) readBack(ctx context.Context, in []kafka.Endpoint, t trail) error {
	topic := r.cfg.Topics.Checkpoint
	cl, err := r.client(r.cfg.Kafka, in, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(500*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(t.committed)}}))
	if err != nil {
		return err
	}
	defer cl.Close()
	seen := false
	for {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				return fault.Wrap(err, fault.ReadBackTimeout, "wait for offset %d of %s", t.last, topic)
			}
			return err
		}
		for _, e := range fs.Errors() {
			return e.Err
		}
		for _, rec := range fs.Records() {
			switch {
			case rec.Offset == t.committed:
				seen = true
			case rec.Offset == t.aborted:
				return fault.New(fault.ProbeContradicted, "the record at offset %d of %s was aborted and is visible", t.aborted, topic)
			case rec.Offset < t.last:
			case !seen:
				return fault.New(fault.ProbeContradicted, "the record at offset %d of %s was committed and is not visible", t.committed, topic)
			default:
				return nil
			}
		}
	}
}
