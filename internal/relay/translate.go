package relay

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// TranslatorConfig says how rows become records.
type TranslatorConfig struct {
	Name        string // of the relay
	Version     string // of the program
	Columns     outbox.Columns
	Router      sink.RouterConfig // Limit and Partitions are set from the session's catalog
	LetterTopic string
	// Recovered says that the rows are read from the table, not from a stream.
	Recovered bool
	// Retry is when letters that may heal by themselves are tried again.
	Retry dlq.Schedule
}

func (c TranslatorConfig) letterWriter() letterWriter {
	return letterWriter{name: c.Name, version: c.Version, topic: c.LetterTopic, retry: c.Retry}
}

// Translator turns rows into Kafka records, for one session and one goroutine.
// A row that can be no event becomes a dead letter; a fault that concerns more
// than the row is an error and ends the session.
type Translator struct {
	cfg     TranslatorConfig
	catalog *sink.Catalog
	router  *sink.Router
	source  string // <database>/<slot>
	tli     int32
	letters letterWriter
	metrics *Metrics

	relation *replication.Relation
	decoder  *outbox.Decoder
	commit   uint64 // commit LSN that origin belongs to
	origin   *sink.Origin
	rec      outbox.Record
}

// NewTranslator makes the translator of one session.
func NewTranslator(cfg TranslatorConfig, st replication.State, sess sink.Session, m *Metrics) (*Translator, error) {
	t := &Translator{
		cfg: cfg, catalog: sess.Catalog, source: st.Database + "/" + st.Slot.Name, tli: st.Timeline,
		letters: cfg.letterWriter(), metrics: m,
	}
	cfg.Router.Limit, cfg.Router.Partitions = sess.Catalog.Limit, sess.Catalog.Partitions
	var err error
	t.router, err = sink.NewRouter(cfg.Router)
	return t, err
}

// Translate appends the records of tx's rows to dst and tells how many of them
// are letters.
func (t *Translator) Translate(ctx context.Context, tx *replication.Tx, dst []*kgo.Record) ([]*kgo.Record, uint64, error) {
	if err := t.shape(tx.Relation); err != nil {
		return nil, 0, err
	}
	if t.origin == nil || t.commit != uint64(tx.CommitLSN) {
		t.commit = uint64(tx.CommitLSN)
		facts := sink.OriginFacts{CommitLSN: tx.CommitLSN, Timeline: t.tli, XID: tx.XID, CommitTime: tx.CommitTime, Source: t.source}
		if t.cfg.Recovered {
			facts.Recovered = time.Now()
		}
		t.origin = sink.NewOrigin(facts, time.Now())
	}
	var letters uint64
	for i := range tx.Rows {
		rec, isLetter, err := t.row(ctx, &tx.Rows[i])
		if err != nil {
			return nil, 0, err
		}
		if isLetter {
			letters++
		}
		dst = append(dst, rec)
	}
	return dst, letters, nil
}

// shape prepares the decoder for the relation as the stream describes it,
// which is how it was when the row was written.
func (t *Translator) shape(rel *replication.Relation) error {
	if rel == t.relation || rel == nil {
		return nil
	}
	cols := make([]outbox.Column, len(rel.Columns))
	for i, c := range rel.Columns {
		cols[i] = outbox.Column{Name: c.Name, TypeOID: c.TypeOID}
	}
	d, err := outbox.NewDecoder(t.cfg.Columns, cols)
	if err != nil {
		// Every row would fail, so this is no matter for dead letters.
		t.metrics.unread(decodeColumn)
		return fault.Wrap(err, fault.ColumnMissing, "table %s.%s", rel.Schema, rel.Name)
	}
	t.relation, t.decoder = rel, d
	return nil
}

func (t *Translator) row(ctx context.Context, row *replication.Row) (*kgo.Record, bool, error) {
	decodeErr := t.decoder.Decode(row.Values, &t.rec)
	rec, err := t.router.Route(t.origin, &t.rec, row.Ord, row.Seq)
	if err == nil && decodeErr == nil {
		if _, known := t.catalog.Get(rec.Topic); known {
			return rec, false, nil
		}
		// The first row for this topic: its limits were not known to Route.
		if err := t.catalog.Ensure(ctx, rec.Topic); err != nil {
			return nil, false, err
		}
		if rec, err = t.router.Route(t.origin, &t.rec, row.Ord, row.Seq); err == nil {
			return rec, false, nil
		}
	}
	if decodeErr != nil {
		t.metrics.unread(decodeRow)
	}
	cause := errors.Join(decodeErr, err)
	if decodeErr == nil && fault.CodeOf(err).Class != fault.Reject {
		return nil, false, err
	}
	letter, err := t.letter(ctx, rec, cause)
	return letter, true, err
}

// letter makes the dead letter of a row.
func (t *Translator) letter(ctx context.Context, rec *kgo.Record, cause error) (*kgo.Record, error) {
	return t.letters.write(ctx, t.catalog, rec, t.rec.Partition, cause)
}

// letterWriter makes letters of records. It is safe for concurrent use.
type letterWriter struct {
	name, version, topic string
	retry                dlq.Schedule
}

// LetterWriter returns the Write of Letters.
func LetterWriter(cfg TranslatorConfig) func(context.Context, sink.Session, *kgo.Record, error) (*kgo.Record, error) {
	w := cfg.letterWriter()
	return func(ctx context.Context, sess sink.Session, rec *kgo.Record, cause error) (*kgo.Record, error) {
		var partition outbox.Partition
		if n, ok := sink.ExplicitPartition(rec); ok {
			partition = outbox.PartitionOf(n)
		}
		return w.write(ctx, sess.Catalog, rec, partition, cause)
	}
}

func (w letterWriter) write(ctx context.Context, catalog *sink.Catalog, rec *kgo.Record, partition outbox.Partition, cause error) (*kgo.Record, error) {
	if err := catalog.Ensure(ctx, w.topic); err != nil {
		return nil, err
	}
	l := dlq.New(rec, cause, time.Now())
	l.Relay, l.RelayVersion, l.Partition = w.name, w.version, partition
	if l.Reason == dlq.Refused {
		w.retry.Plan(&l) // the broker may take it one day; other faults are the row's own
	}
	out := l.Record(w.topic, catalog.Limit(w.topic))
	crash.Point(crash.LetterAdded)
	return out, nil
}

// size is what a record counts against the limits: memory, not wire bytes.
func size(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value) + recordOverhead
	for i := range r.Headers {
		n += len(r.Headers[i].Value)
	}
	return n
}

// recordOverhead is a kgo.Record, its thirteen headers of 40 bytes and the
// client's own bookkeeping.
const recordOverhead = 800
