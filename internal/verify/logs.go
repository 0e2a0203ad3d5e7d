package verify

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strconv"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// Names of the letter's envelope. They are public; the dead letter room writes
// them.
const (
	headerPayloadSHA256 = "outbox.dlq.payload_sha256"
	headerKeyOmitted    = "outbox.dlq.key_omitted"
	headerReason        = "outbox.dlq.reason"
)

// Topics are where the relay writes to.
type Topics struct {
	Events  []string
	Letters []string
	State   string // what became of letters; "": not looked at
}

// ReadLogs reads every partition of the topics twice, to the ends that they
// have now. opts say how to reach the cluster and hold no options of consumers.
func ReadLogs(ctx context.Context, opts []kgo.Opt, topics Topics) ([]Log, error) {
	all, err := readBounds(ctx, opts, slices.Concat(topics.Events, topics.Letters)...)
	if err != nil {
		return nil, err
	}
	logs := make([]Log, len(all))
	index := map[partitionKey]int{}
	for i, b := range all {
		logs[i] = Log{Topic: b.topic, Partition: b.partition, Letters: slices.Contains(topics.Letters, b.topic), Start: b.start, LSO: b.lso, HW: b.hw}
		index[partitionKey{b.topic, b.partition}] = i
	}

	settlers := make([]settler, len(logs))
	var bad error
	whole, err := drain(ctx, opts, kgo.ReadUncommitted(), all, func(b bounds) int64 { return b.hw - 1 }, func(rec *kgo.Record) {
		i := index[partitionKey{rec.Topic, rec.Partition}]
		l := &logs[i]
		if rec.Offset >= l.HW {
			return // written since
		}
		if fate, ok := marker(rec); ok {
			for _, k := range settlers[i].settle(rec) {
				l.Records[k].Fate = fate
			}
			return
		}
		if rec.Attrs.IsControl() {
			return
		}
		r, err := recordOf(rec)
		if err != nil && bad == nil {
			bad = fmt.Errorf("read %s/%d@%d: %w", rec.Topic, rec.Partition, rec.Offset, err)
		}
		r.Fate = settlers[i].add(rec, len(l.Records))
		l.Records = append(l.Records, r)
	})
	switch {
	case err != nil:
		return nil, err
	case bad != nil:
		return nil, bad
	case !whole:
		return nil, fmt.Errorf("read %v: a partition ends before its high watermark", topics)
	}

	for i := range logs {
		logs[i].forgetUnstable()
	}
	// What is shown is the broker's and the client's word, not ours. If it
	// falls short of the markers the drain stalls, and P7 tells.
	_, err = drain(ctx, opts, kgo.ReadCommitted(), all, func(b bounds) int64 {
		return logs[index[partitionKey{b.topic, b.partition}]].lastShown()
	}, func(rec *kgo.Record) {
		l := &logs[index[partitionKey{rec.Topic, rec.Partition}]]
		if rec.Attrs.IsControl() || rec.Offset >= l.LSO {
			return
		}
		k := sort.Search(len(l.Records), func(k int) bool { return l.Records[k].Offset >= rec.Offset })
		if k < len(l.Records) && l.Records[k].Offset == rec.Offset {
			l.Records[k].Committed = true
		}
	})
	return logs, err
}

// forgetUnstable leaves open what was not stable when the bounds were taken:
// the second pass says nothing about it.
func (l *Log) forgetUnstable() {
	for i := len(l.Records) - 1; i >= 0 && l.Records[i].Offset >= l.LSO; i-- {
		l.Records[i].Fate = Open
	}
}

// lastShown is the last offset that a read_committed consumer should be given.
func (l *Log) lastShown() int64 {
	for i := len(l.Records) - 1; i >= 0; i-- {
		r := &l.Records[i]
		if r.Fate == Commit || r.Fate == NoTransaction {
			return r.Offset
		}
	}
	return -1
}

// recordOf reads the headers. A header that is missing leaves a zero, which
// fits no row; one that is malformed is an error, because nobody else's record
// belongs here.
func recordOf(rec *kgo.Record) (Record, error) {
	mark := readMarks(rec.Value)
	r := Record{
		Offset: rec.Offset, Hash: HashOf(rec.Value), Key: NameOf(string(rec.Key)),
		Producer: Producer{rec.ProducerID, rec.ProducerEpoch}, KeySeq: mark.keySeq, Undone: mark.undone,
	}
	var p parser
	for i := range rec.Headers {
		v := rec.Headers[i].Value
		switch rec.Headers[i].Key {
		case outbox.HeaderID:
			r.ID = IDOf(string(v))
		case outbox.HeaderLSN:
			r.LSN = p.lsn(v)
		case outbox.HeaderOrdinal:
			r.Ord = uint32(p.number(v, 32))
		case outbox.HeaderSeq:
			r.Seq = uint32(p.number(v, 32))
		case outbox.HeaderTimeline:
			r.Timeline = int32(p.number(v, 31))
		case outbox.HeaderCheckpoint:
			r.Ckpt = p.number(v, 64)
		case outbox.HeaderReplayed:
			r.Replayed = true
		case outbox.HeaderRecovered:
			r.Recovered = true
		case outbox.HeaderReplayOf:
			r.ReplayOf = IDOf(string(v))
		case outbox.HeaderAttempts:
			r.Again = p.number(v, 31) > 1
		case outbox.HeaderGroup:
			r.Group = NameOf(string(v))
		case headerReason:
			r.Reason = NameOf(string(v))
		case headerPayloadSHA256:
			r.Hash = p.hash(v)
		case headerKeyOmitted:
			r.Keyless = true
		}
	}
	return r, p.err
}

// parser keeps the first error.
type parser struct{ err error }

func (p *parser) keep(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *parser) number(v []byte, bits int) uint64 {
	n, err := strconv.ParseUint(string(v), 10, bits)
	p.keep(err)
	return n
}

func (p *parser) lsn(v []byte) pglogrepl.LSN {
	n, err := pglogrepl.ParseLSN(string(v))
	p.keep(err)
	return n
}

func (p *parser) hash(v []byte) Hash {
	var h Hash
	sum, err := hex.DecodeString(string(v))
	if err == nil && len(sum) < 8 {
		err = fmt.Errorf("hash of %d bytes", len(sum))
	}
	p.keep(err)
	if err == nil {
		for _, b := range sum[:8] {
			h = h<<8 | Hash(b)
		}
	}
	return h
}
