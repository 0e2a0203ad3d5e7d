package sink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// Config says under which name to write transactions, and how patiently.
type Config struct {
	Name               string // of the relay; the transactional id follows from it
	Version            string // of the program, for the records that people read
	CheckpointTopic    string
	TransactionTimeout time.Duration // after which the broker aborts for us
	ReadBackTimeout    time.Duration // for barrier and checkpoint to become readable
	// Reader makes the options of the client that reads the checkpoints back;
	// nil: the producer's. Options with metrics belong to one client at a time.
	Reader     func() ([]kgo.Opt, error)
	MaxRecords int // no transaction has more records, checkpoint included
	// CreateTopic makes a missing topic of events; nil: it is waited for.
	CreateTopic func(ctx context.Context, adm *kadm.Client, name string) error
	// Reach is asked what keeps the program from Kafka when no answers come, and
	// returns nil if nothing does. nil: the time-outs alone tell.
	Reach func(context.Context) error
	// Patience is how long no answers may come until then; 0 is 5 s.
	Patience time.Duration
	// Tolerant reads a history of checkpoints that contradicts itself; see
	// checkpoint.Log.
	Tolerant bool
	// Alive is asked around fencing: is the slot still ours? A session that
	// has lost it must not fence the one that has it. nil: always.
	Alive func(context.Context) error
}

// TransactionalID is the same on every replica and after every restart, so
// that a new leader fences the old one.
func TransactionalID(name string) string { return "outbox-" + name + "-0" }

// Session is what opening a producer has found out.
type Session struct {
	ID        string
	No        uint64 // of this session: one more than any before
	State     checkpoint.State
	ClusterID string
	TopicID   string // of the checkpoint topic
	// Degraded: the brokers lack transaction.version 2 (KIP-890), without
	// which a delayed EndTxn can end the next transaction (KAFKA-17754).
	Degraded bool
	Catalog  *Catalog
}

// endTxn is the api key of EndTxn. Its retries are next to none: the client
// would hide a lost answer behind its own retries for up to 30 s, and doubt
// has to be seen as doubt.
var endTxn = kmsg.NewPtrEndTxnRequest().Key()

const (
	endTxnRetry  = time.Millisecond
	requestRetry = 30 * time.Second // the client's own default
)

// Open fences every predecessor, writes the barrier and reads the state of the
// checkpoint topic up to it. When it returns, the fate of every earlier
// transaction is decided, durable and part of the Session's State:
// InitProducerID aborts what is open and answers only after the markers are
// written (TransactionCoordinator.scala), and the barrier comes after them.
//
// The caller must hold the slot. Errors carry a fault.Code.
func Open(ctx context.Context, cfg Config, opts []kgo.Opt, log zerolog.Logger, m *Metrics) (*Producer, Session, error) {
	p := &Producer{cfg: cfg, log: log, metrics: m}
	catalog := newCatalog(nil, cfg.CreateTopic)
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), opts...),
		kgo.TransactionalID(TransactionalID(cfg.Name)),
		kgo.TransactionTimeout(cfg.TransactionTimeout),
		kgo.RetryTimeoutFn(func(key int16) time.Duration {
			if key == endTxn {
				return endTxnRetry
			}
			return requestRetry
		}),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(Partitioner()),
		kgo.ProducerBatchMaxBytesFn(catalog.batchLimit),
		// A group is handed over whole and then flushed, so batches are as
		// large as they can be; lingering would only add to latency.
		kgo.ManualFlushing(),
		kgo.MaxBufferedRecords(cfg.MaxRecords),
	)...)
	if err != nil {
		return nil, Session{}, fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	p.cl = cl
	catalog.adm = kadm.NewClient(cl)
	s := Session{ID: uuid.NewString(), Catalog: catalog}
	if err := p.start(ctx, &s, opts); err != nil {
		m.initFailed()
		p.Close()
		return nil, Session{}, err
	}
	return p, s, nil
}

func (p *Producer) start(ctx context.Context, s *Session, opts []kgo.Opt) error {
	if err := p.inspect(ctx, s); err != nil {
		return err
	}
	if err := p.fence(ctx); err != nil {
		return err
	}
	offset, err := p.barrier(ctx, s.ID)
	if err != nil {
		return err
	}
	rctx, cancel := context.WithTimeout(ctx, p.cfg.ReadBackTimeout)
	defer cancel()
	if p.cfg.Reader != nil {
		if opts, err = p.cfg.Reader(); err != nil {
			return err
		}
	}
	log := checkpoint.Log{Topic: p.cfg.CheckpointTopic, Name: p.cfg.Name, Opts: opts, Tolerant: p.cfg.Tolerant}
	s.State, p.tail, err = log.Load(rctx, s.ID, offset)
	if err != nil {
		return kafka.Classify("load checkpoint", err)
	}
	s.No = s.State.SessionNo + 1
	return nil
}

// inspect finds out who the cluster is and whether the checkpoint topic can
// hold a checkpoint.
func (p *Producer) inspect(ctx context.Context, s *Session) error {
	meta, err := p.lookUp(ctx, s.Catalog.adm)
	if err != nil {
		return err
	}
	topic := meta.Topics[p.cfg.CheckpointTopic]
	s.ClusterID, s.TopicID = meta.Cluster, topic.ID.String()
	if n := len(topic.Partitions); n != 1 {
		return fault.New(fault.KafkaTopicShape, "checkpoint topic %s has %d partitions", p.cfg.CheckpointTopic, n).
			WithFix("partitions cannot be taken away: give init a new KAFKA_CHECKPOINT_TOPIC, or see docs/operations.md if the relay has run")
	}
	settings, err := topicSettings(ctx, s.Catalog.adm, p.cfg.CheckpointTopic)
	if err != nil {
		return kafka.Classify("describe checkpoint topic "+p.cfg.CheckpointTopic, err)
	}
	// Deletion by age would one day remove the only record there is.
	if v, ok := settings["cleanup.policy"]; ok && v != "compact" {
		return fault.New(fault.KafkaTopicShape, "checkpoint topic %s has cleanup.policy=%s", p.cfg.CheckpointTopic, v).
			WithFix("kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config cleanup.policy=compact", p.cfg.CheckpointTopic)
	}
	s.Degraded, err = p.degraded(ctx)
	return err
}

// topicPatience is how long a checkpoint topic may be unknown before it counts
// as gone: a broker that has just started, or did not hear of a topic yet, says
// the same.
const topicPatience = 5 * time.Second

// lookUp describes the checkpoint topic. One that is gone is no topic to wait
// for: nobody will bring back what was in it, and creating it anew only leads
// to an empty one.
func (p *Producer) lookUp(ctx context.Context, adm *kadm.Client) (kadm.Metadata, error) {
	name := p.cfg.CheckpointTopic
	for since := time.Now(); ; {
		meta, err := adm.Metadata(fresh(ctx), name)
		if err != nil {
			return meta, kafka.Classify("reach Kafka", err)
		}
		err = meta.Topics[name].Err
		switch {
		case err == nil:
			return meta, nil
		case !errors.Is(err, kerr.UnknownTopicOrPartition):
			return meta, kafka.Classify("look up checkpoint topic "+name, err)
		case time.Since(since) > topicPatience:
			return meta, fault.Wrap(err, fault.CheckpointMissing, "checkpoint topic %s", name)
		}
		select {
		case <-time.After(topicPatience / 20):
		case <-ctx.Done():
			return meta, fmt.Errorf("look up checkpoint topic %s: %w", name, context.Cause(ctx))
		}
	}
}

// degraded asks for the finalized feature transaction.version, which old
// brokers do not report.
func (p *Producer) degraded(ctx context.Context) (bool, error) {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "outbox-relay", "1"
	resp, err := req.RequestWith(ctx, p.cl)
	if err != nil {
		return false, kafka.Classify("ask for features", err)
	}
	for _, f := range resp.FinalizedFeatures {
		if f.Name == "transaction.version" {
			return f.MaxVersionLevel < 2, nil
		}
	}
	return true, nil
}

// fence takes the transactional id over. The slot is checked on both sides of
// it: who has lost the slot must not fence the one who has it now.
func (p *Producer) fence(ctx context.Context) error {
	if err := p.alive(ctx); err != nil {
		return err
	}
	if _, _, err := p.cl.ProducerID(ctx); err != nil {
		return kafka.Classify("take over transactional id "+TransactionalID(p.cfg.Name), err)
	}
	crash.Point(crash.ProducerFenced)
	return p.alive(ctx)
}

func (p *Producer) alive(ctx context.Context) error {
	if p.cfg.Alive == nil {
		return nil
	}
	return p.cfg.Alive(ctx)
}

// barrier commits the session's barrier record and returns its offset.
func (p *Producer) barrier(ctx context.Context, session string) (int64, error) {
	host, _ := os.Hostname()
	rec, err := checkpoint.Barrier{
		SessionID: session, Host: host, PID: os.Getpid(), Version: p.cfg.Version, Time: time.Now(),
	}.Record(p.cfg.CheckpointTopic, p.cfg.Name)
	if err != nil {
		return 0, fault.Wrap(err, fault.Unclassified, "make barrier")
	}
	if err := p.Single(ctx, rec); err != nil {
		return 0, fmt.Errorf("write barrier: %w", err)
	}
	crash.Point(crash.BarrierWritten)
	return rec.Offset, nil
}

// Single commits one record in a transaction of its own, without a checkpoint.
// It is for the records that are not events: the barrier and init's intent.
func (p *Producer) Single(ctx context.Context, rec *kgo.Record) error {
	if err := p.Begin(); err != nil {
		return err
	}
	p.Add(rec)
	if err := p.flush(ctx); err != nil {
		return err
	}
	p.open = false
	if err := p.cl.EndTransaction(context.WithoutCancel(ctx), kgo.TryCommit); err != nil {
		return fault.Wrap(err, fault.OutcomeUnknown, "commit")
	}
	return nil
}
