package eventstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// consume makes a client that reads committed records from where it is told.
// Offsets that are gone are an error and never a reset, which would leave
// events out without a word.
func (k *Kafka) consume(from map[int32]kgo.Offset, opts ...kgo.Opt) (*kgo.Client, error) {
	cl, err := kgo.NewClient(append(append(append([]kgo.Opt(nil), k.cfg.Opts...), opts...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{k.cfg.Topic: from}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	if err != nil {
		return nil, fmt.Errorf("make a consumer: %w", err)
	}
	return cl, nil
}

// fetched returns the error of a poll that waiting does not mend, and waits a
// little after any other.
func (k *Kafka) fetched(ctx context.Context, fs kgo.Fetches) error {
	for _, e := range fs.Errors() {
		var said *kerr.Error
		var lost *kgo.ErrDataLoss
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(e.Err, &lost):
			return &LogError{Log: k.logName(e.Partition), Place: strconv.FormatInt(lost.ConsumedTo, 10), Detail: "lost what came behind: the brokers were truncated"}
		case errors.Is(e.Err, kerr.OffsetOutOfRange):
			return &LogError{Log: k.logName(e.Partition), Detail: "does not hold the offset to read: its records were deleted, or the position is of another topic"}
		case errors.As(e.Err, &said) && !said.Retriable:
			return fmt.Errorf("read %s: %w", k.logName(e.Partition), e.Err)
		case errors.Is(e.Err, kgo.ErrClientClosed):
			return e.Err
		default:
			k.log.Debug("reading goes on after an error", "partition", e.Partition, "error", e.Err)
		}
	}
	if len(fs.Errors()) > 0 {
		return sleep(ctx, firstRetry)
	}
	return nil
}

// walk reads one partition from an offset until another, and calls each for
// every committed event until it returns false.
func (k *Kafka) walk(ctx context.Context, p int32, from, to int64, each func(*kgo.Record) (bool, error)) error {
	if from >= to {
		return nil
	}
	cl, err := k.consume(map[int32]kgo.Offset{p: kgo.NewOffset().At(from)}, kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = k.drain(ctx, cl, from, to, each)
	return err
}

// drain is walk on a client that reads at from already. It returns where it
// has come to. Markers of transactions are records too, so the end of a
// partition is seen even if an aborted transaction is the last in it.
func (k *Kafka) drain(ctx context.Context, cl *kgo.Client, from, to int64, each func(*kgo.Record) (bool, error)) (int64, error) {
	for from < to {
		fs := cl.PollFetches(ctx)
		for _, r := range fs.Records() {
			from = r.Offset + 1
			if r.Attrs.IsControl() {
				continue
			}
			more, err := each(r)
			if err != nil || !more {
				return from, err
			}
		}
		if err := k.fetched(ctx, fs); err != nil {
			return from, err
		}
	}
	return from, nil
}

// advance brings the index up to an offset. A partition whose first records
// were deleted is refused by the fetch of offset 0.
func (l *lane) advance(ctx context.Context, to int64) error {
	if l.index.next >= to {
		return nil
	}
	if l.reader == nil {
		cl, err := l.k.consume(map[int32]kgo.Offset{l.partition: kgo.NewOffset().At(l.index.next)}, kgo.KeepControlRecords())
		if err != nil {
			return err
		}
		l.reader = cl
	}
	// A poll may return records beyond the offset asked for. They go into the
	// index too, or they would be lost to it.
	next, err := l.k.drain(ctx, l.reader, l.index.next, to, func(r *kgo.Record) (bool, error) {
		ev, err := l.k.event(r)
		if err != nil {
			return false, err
		}
		if want, fits := l.index.add(&ev, r.Offset); !fits {
			return false, &LogError{Log: l.k.logName(l.partition), Place: strconv.FormatInt(r.Offset, 10), Detail: fmt.Sprintf("holds version %d of a stream where version %d has to be", ev.Version, want)}
		}
		return true, nil
	})
	if err != nil {
		l.dropReader()
		return err
	}
	l.index.next = next
	return nil
}

// refresh brings the index up to what everybody can read now.
func (l *lane) refresh(ctx context.Context) error {
	ends, err := l.k.ends(ctx, true)
	if err != nil {
		return err
	}
	return l.advance(ctx, ends[l.partition])
}

// recall returns a stream's head, and reads the partition again for one that
// the index has forgotten.
func (l *lane) recall(ctx context.Context, stream string) (streamHead, error) {
	h, ok := l.index.head(stream)
	if ok {
		return h, nil
	}
	err := l.k.walk(ctx, l.partition, 0, l.index.next, func(r *kgo.Record) (bool, error) {
		if string(r.Key) != stream {
			return true, nil
		}
		ev, err := l.k.event(r)
		if h.version == 0 {
			h.first = r.Offset
		}
		h.version, h.last = ev.Version, r.Offset
		return true, err
	})
	if err == nil && h.version > 0 {
		l.index.keep(h)
	}
	return h, err
}

func (l *lane) dropReader() {
	if l.reader != nil {
		l.reader.Close()
		l.reader = nil
	}
}

// Load reads the part of the partition in which the stream lies, from its
// first event to its last, and drops what belongs to other streams. It sees
// what was committed before it began. The events have no Position: only who
// reads all partitions has one.
func (k *Kafka) Load(ctx context.Context, stream string, after int64) iter.Seq2[Recorded, error] {
	return func(yield func(Recorded, error) bool) {
		h, err := k.extent(ctx, stream)
		if err == nil && h.version > after {
			err = k.walk(ctx, k.partitionOf(stream), h.first, h.last+1, func(r *kgo.Record) (bool, error) {
				if string(r.Key) != stream {
					return true, nil
				}
				ev, err := k.event(r)
				if err != nil || ev.Version <= after {
					return true, err
				}
				return yield(ev, nil), nil
			})
		}
		if err != nil {
			yield(Recorded{}, fmt.Errorf("load stream %q: %w", stream, err))
		}
	}
}

func (k *Kafka) extent(ctx context.Context, stream string) (streamHead, error) {
	l := k.lanes[k.partitionOf(stream)]
	if err := l.take(ctx); err != nil {
		return streamHead{}, err
	}
	defer l.give()
	if err := l.refresh(ctx); err != nil {
		return streamHead{}, err
	}
	return l.recall(ctx, stream)
}

// ReadAll reads one partition after the other. Two readers that begin at
// different positions see the events of different partitions in different
// orders.
func (k *Kafka) ReadAll(ctx context.Context, from Position, limit int) ([]Recorded, error) {
	at, err := parseKafkaPosition(from, k.cfg.Partitions)
	if err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, fmt.Errorf("read the log: a limit of %d events is none", limit)
	}
	limit = min(limit, maxPage)
	ends, err := k.ends(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	var events []Recorded
	for p := range k.cfg.Partitions {
		err := k.walk(ctx, p, at[p], ends[p], func(r *kgo.Record) (bool, error) {
			ev, err := k.event(r)
			if err != nil {
				return false, err
			}
			at[p] = r.Offset + 1
			ev.Position = at.position()
			events = append(events, ev)
			return len(events) < limit, nil
		})
		if err != nil {
			return nil, fmt.Errorf("read the log: %w", err)
		}
		if len(events) == limit {
			break
		}
	}
	return events, nil
}

// Subscribe reads all partitions at once, each in its order. It belongs to no
// consumer group, so nothing is ever rebalanced: the position is the caller's
// to keep.
func (k *Kafka) Subscribe(ctx context.Context, from Position, handle Handler) error {
	at, err := parseKafkaPosition(from, k.cfg.Partitions)
	if err != nil {
		return err
	}
	places := map[int32]kgo.Offset{}
	for p, offset := range at {
		places[int32(p)] = kgo.NewOffset().At(offset)
	}
	cl, err := k.consume(places)
	if err != nil {
		return err
	}
	defer cl.Close()
	for {
		fs := cl.PollFetches(ctx)
		for _, r := range fs.Records() {
			ev, err := k.event(r)
			if err != nil {
				return err
			}
			at[r.Partition] = r.Offset + 1
			ev.Position = at.position()
			if err := deliver(ctx, handle, ev); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := k.fetched(ctx, fs); err != nil {
			return err
		}
	}
}
