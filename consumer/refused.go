package consumer

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// refused tells whether the record itself is what the client or the brokers
// will not take, now or later. A topic that is missing or denied is not: it can
// be created, and the right granted.
func refused(err error) bool {
	for _, e := range []error{
		kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp,
		kerr.InvalidTopicException, kerr.UnsupportedForMessageFormat, errNoTopic,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var errNoTopic = errors.New("the record names no topic")

// spot is a partition.
type spot struct {
	topic string
	num   int32
}

// refusals is what a session has learned about results that Kafka refuses. A
// batch is refused as a whole, so which record it was for may have to be tried:
// up to the last suspect, events go one to a transaction and records one to a
// batch. A new session or a rebalance forgets it all, and it is learned again.
type refusals struct {
	until map[spot]int64     // last suspect of each partition
	found map[string]refusal // by place
}

// refusal is what to do with one event.
type refusal struct {
	err   error // of its result: it becomes a letter; nil if only its letter was refused
	limit int   // of its letter; 0 is Config.MaxLetterBytes
}

// bad is a record that was refused, of the event with that index.
type bad struct {
	event int
	topic string
	err   error
}

func (d *refusals) alone() bool { return len(d.until) > 0 }

func (d *refusals) of(rec *kgo.Record) refusal {
	if len(d.found) == 0 {
		return refusal{}
	}
	return d.found[place(rec.Topic, rec.Partition, rec.Offset)]
}

// passed forgets what is committed.
func (d *refusals) passed(recs []*kgo.Record) {
	if len(d.found) == 0 && len(d.until) == 0 {
		return
	}
	for _, r := range recs {
		delete(d.found, place(r.Topic, r.Partition, r.Offset))
		s := spot{r.Topic, r.Partition}
		if last, ok := d.until[s]; ok && r.Offset >= last {
			delete(d.until, s)
		}
	}
}

// blame draws the conclusions from a transaction that was aborted. Its error is
// a letter that cannot be made smaller: it can only be waited for the topic of
// letters to take it.
func (t *transformer) blame(recs []*kgo.Record, results []result, all []bad) error {
	d, c := &t.refusals, t.c
	if len(all) > 1 && !d.alone() {
		d.until = map[spot]int64{}
		for _, b := range all {
			r := recs[b.event]
			s := spot{r.Topic, r.Partition}
			d.until[s] = max(d.until[s], r.Offset)
		}
		c.log.Warn("results were refused; events go one at a time until it is found which", slog.Int("records", len(all)), slog.Any("error", all[0].err))
		return nil
	}
	b := all[0] // of all that were alone, one is enough
	r := recs[b.event]
	known := d.of(r)
	if results[b.event].reason == "" {
		known.err = fmt.Errorf("produce a result to %q: %w", b.topic, b.err)
	} else {
		limit := cmp.Or(known.limit, c.cfg.MaxLetterBytes)
		if !errors.Is(b.err, kerr.MessageTooLarge) || limit <= leastLetter {
			c.metrics.unpublished.Inc()
			return fmt.Errorf("produce a dead letter: %w", b.err)
		}
		known.limit = max(limit/2, leastLetter) // the topic takes less than we were told
	}
	if d.found == nil {
		d.found = map[string]refusal{}
	}
	d.found[place(r.Topic, r.Partition, r.Offset)] = known
	return nil
}
