package verify

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
)

// ReadCheckpoints reads the whole checkpoint topic of the relay called name.
func ReadCheckpoints(ctx context.Context, opts []kgo.Opt, topic, name string) ([]CheckpointRecord, error) {
	all, err := readBounds(ctx, opts, topic)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	if len(all) > 1 {
		return nil, fmt.Errorf("checkpoint topic %s has %d partitions", topic, len(all))
	}
	var records []CheckpointRecord
	var settle settler
	next := int64(0)
	whole, err := drain(ctx, opts, kgo.ReadUncommitted(), all, func(b bounds) int64 { return b.hw - 1 }, func(rec *kgo.Record) {
		if rec.Offset >= all[0].hw {
			return // written since
		}
		hole := rec.Offset != next
		next = rec.Offset + 1
		fate, decided := marker(rec)
		if decided {
			for _, i := range settle.settle(rec) {
				records[i].Fate = fate
			}
		}
		kind, owner := checkpoint.KindOf(rec.Key)
		if decided || rec.Attrs.IsControl() || kind == checkpoint.Unknown || owner != name {
			// What is missing before a marker is missing before the record
			// that follows it.
			if hole {
				records = append(records, CheckpointRecord{Offset: -1})
			}
			return
		}
		c := checkpointOf(rec, kind)
		c.Hole = hole
		c.Fate = settle.add(rec, len(records))
		records = append(records, c)
	})
	if err != nil {
		return nil, err
	}
	if !whole {
		return nil, fmt.Errorf("read %s: it ends before its high watermark", topic)
	}
	for i := range records {
		if records[i].Offset >= all[0].lso {
			records[i].Fate = Open
		}
	}
	shown := map[int64]struct{}{}
	_, err = drain(ctx, opts, kgo.ReadCommitted(), all, func(b bounds) int64 {
		for i := len(records) - 1; i >= 0; i-- {
			if r := &records[i]; r.Offset >= 0 && (r.Fate == Commit || r.Fate == NoTransaction) {
				return r.Offset
			}
		}
		return -1
	}, func(rec *kgo.Record) {
		if rec.Offset < all[0].lso {
			shown[rec.Offset] = struct{}{}
		}
	})
	if err != nil {
		return nil, err
	}
	kept := records[:0]
	hole := false
	for _, r := range records {
		if r.Offset < 0 {
			hole = true
			continue
		}
		r.Hole, hole = r.Hole || hole, false
		_, r.Committed = shown[r.Offset]
		kept = append(kept, r)
	}
	return bridgeHoles(kept), nil
}

// bridgeHoles hands a hole on to the next committed checkpoint: what is missing
// may have lain before a barrier or an attempt that was aborted.
func bridgeHoles(records []CheckpointRecord) []CheckpointRecord {
	hole := false
	for i := range records {
		r := &records[i]
		hole = hole || r.Hole
		if r.Kind == checkpoint.Lane && r.Committed {
			r.Hole, hole = hole, false
		}
	}
	return records
}

func checkpointOf(rec *kgo.Record, kind checkpoint.Kind) CheckpointRecord {
	c := CheckpointRecord{Offset: rec.Offset, Kind: kind, Producer: Producer{rec.ProducerID, rec.ProducerEpoch}}
	var err error
	switch kind {
	case checkpoint.Lane:
		c.Checkpoint, err = checkpoint.Decode(rec)
		c.Session = c.Checkpoint.SessionID
	case checkpoint.Session:
		var b checkpoint.Barrier
		b, err = checkpoint.DecodeBarrier(rec)
		c.Session = b.SessionID
	case checkpoint.Init:
		_, err = checkpoint.DecodeIntent(rec)
	}
	if err != nil {
		c.Fault = err.Error()
	}
	return c
}
