package sink

import (
	"context"
	"errors"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// ProbeID is the transactional id under which records are tried out. It is not
// the relay's own, so a probe can fence nothing but another probe.
func ProbeID(name string) string { return "outbox-" + name + "-probe" }

// Probe produces copies of the records in a transaction that is always aborted,
// and tells whether a broker refuses one of them for what it is. Readers of
// read_committed see nothing of it. An error means that nothing was learned.
//
// A client is good for one probe: after a refusal its producer id is of no
// more use, and a new one costs some milliseconds.
func Probe(ctx context.Context, cfg Config, opts []kgo.Opt, catalog *Catalog, records []*kgo.Record, log zerolog.Logger) (refused error, err error) {
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), opts...),
		kgo.TransactionalID(ProbeID(cfg.Name)),
		kgo.TransactionTimeout(cfg.TransactionTimeout),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(Partitioner()),
		kgo.ProducerBatchMaxBytesFn(catalog.batchLimit),
		kgo.ManualFlushing(),
		kgo.MaxBufferedRecords(len(records)+1),
	)...)
	if err != nil {
		return nil, fault.Wrap(err, fault.ConfigInvalid, "make Kafka client")
	}
	p := &Producer{cfg: cfg, log: log, cl: cl}
	defer p.Close()
	if err := p.Begin(); err != nil {
		return nil, err
	}
	for _, r := range records {
		p.Add(&kgo.Record{
			Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp, Context: r.Context,
		})
	}
	err = p.flush(ctx)
	if no := (*RefusedError)(nil); errors.As(err, &no) {
		return no, nil
	}
	return nil, kafka.Classify("probe", err)
}
