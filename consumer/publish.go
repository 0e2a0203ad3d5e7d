package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
)

// Codes in the letters of consumers; docs/errors.md explains them.
const (
	codeGaveUp    = "OBX-2200"
	codePermanent = "OBX-2201"
	codePanic     = "OBX-2202"
	codeHeader    = "OBX-2203"
	codeForeign   = "OBX-2204"
	codeRefused   = "OBX-2205"
)

const (
	// publishTimeout bounds the wait for the acknowledgement of one letter or
	// retry copy. After it the record waits, and nothing else does.
	publishTimeout = 15 * time.Second

	// leastLetter is about what a letter needs that leaves out all it can.
	leastLetter = 16 << 10
)

// failure is why an event is not done.
type failure struct {
	reason dlq.Reason
	code   string
	text   string // else err's
	tries  int
	first  time.Time
	err    error
}

// letter makes a dead letter of the record and waits until it is acknowledged:
// only then may the offset be committed.
func (w *worker) letter(ctx context.Context, it *item, f failure) (outcome, time.Duration) {
	ev := &w.ev
	if w.c.cfg.DeadLetterTopic == "" {
		w.c.fail(&GaveUpError{Topic: ev.Topic, Partition: ev.Partition, Offset: ev.Offset, ID: ev.ID, Attempts: f.tries, Err: f.cause()})
		return lost, 0
	}
	l := w.c.cfg.letterOf(it.rec, ev, f, time.Now())
	limit := w.c.cfg.MaxLetterBytes
	for {
		err := w.c.publish(ctx, l.Record(w.c.cfg.DeadLetterTopic, limit))
		switch {
		case err == nil:
			w.c.metrics.letters.WithLabelValues(string(f.reason)).Inc()
			w.c.log.Warn("event became a dead letter", append(where(ev), slog.String("reason", string(f.reason)), slog.String("code", f.code), slog.Int("attempts", f.tries), slog.String("error", l.Message))...)
			return done, 0
		case errors.Is(err, kerr.MessageTooLarge) && limit > leastLetter:
			limit = max(limit/2, leastLetter) // the topic takes less than we were told
			continue
		}
		return w.unpublished(ctx, ev, "dead letter", err)
	}
}

// copy sends the event to the retry topic.
func (w *worker) copy(ctx context.Context, it *item, f failure, d time.Duration) (outcome, time.Duration) {
	err := w.c.publish(ctx, w.c.cfg.retryCopy(it.rec, &w.ev, f, time.Now(), d))
	if errors.Is(err, kerr.MessageTooLarge) {
		// It fits its own topic, and not this one. In place it can go on.
		w.c.metrics.retries.WithLabelValues(retryInPlace).Inc()
		return again, d
	}
	if err != nil {
		return w.unpublished(ctx, &w.ev, "retry copy", err)
	}
	w.c.metrics.retries.WithLabelValues(retryTopic).Inc()
	return done, 0
}

// unpublished is a letter or copy that Kafka did not take: the record waits as
// if its handler had failed once more.
func (w *worker) unpublished(ctx context.Context, ev *Event, what string, err error) (outcome, time.Duration) {
	if ctx.Err() != nil {
		return lost, 0
	}
	w.c.metrics.unpublished.Inc()
	w.c.log.Error("publish "+what, append(where(ev), slog.Any("error", err))...)
	return again, w.c.cfg.Backoff(w.c.cfg.Attempts)
}

// publish produces a record and waits for its acknowledgement. A record that is
// not acknowledged in time may still arrive: it is then there twice.
func (c *Consumer) publish(ctx context.Context, rec *kgo.Record) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	acked := make(chan error, 1)
	c.client.Produce(ctx, rec, func(_ *kgo.Record, err error) { acked <- err })
	select {
	case err := <-acked:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *failure) cause() error {
	if f.err != nil {
		return f.err
	}
	return errors.New(f.text)
}

// letterOf builds the letter. Its identity is the group and the origin header.
func (c *Config) letterOf(rec *kgo.Record, ev *Event, f failure, now time.Time) dlq.Letter {
	l := dlq.Of(rec, now)
	kept := l.Headers[:0]
	for _, h := range l.Headers {
		if !strings.HasPrefix(h.Key, consumerPrefix) {
			kept = append(kept, h)
		}
	}
	l.Headers = append(kept, originHeader(ev))
	l.Topic = ev.Topic
	if c.RetryTopic != "" {
		l.Topic = c.RetryTopic
	}
	l.Group, l.HasSource, l.SourcePartition, l.SourceOffset = c.Group, true, ev.Partition, ev.Offset
	l.Reason, l.Stage, l.Component, l.Code = f.reason, dlq.TaskPut, "consumer", f.code
	l.Relay, l.RelayVersion = c.Name, c.Version
	l.Message = f.text
	if f.err != nil {
		l.Message = fmt.Sprintf("after %d attempts: %s", f.tries, c.ErrorText(f.err))
		l.Code = cmp.Or(c.ErrorCode(f.err), f.code)
	}
	if !f.first.IsZero() {
		l.FirstAt = f.first.UTC().Truncate(time.Microsecond)
	}
	if f.code == codeGaveUp || f.code == codePanic {
		c.LetterRetry.Plan(&l)
	}
	return l
}

// retryCopy is the record as it goes to the retry topic: the same, and when it
// is due.
func (c *Config) retryCopy(rec *kgo.Record, ev *Event, f failure, now time.Time, d time.Duration) *kgo.Record {
	first := f.first
	if first.IsZero() {
		first = now
	}
	h := make([]kgo.RecordHeader, 0, len(rec.Headers)+4)
	for _, old := range rec.Headers {
		if !strings.HasPrefix(old.Key, consumerPrefix) {
			h = append(h, old)
		}
	}
	h = append(
		h, originHeader(ev),
		kgo.RecordHeader{Key: HeaderNotBefore, Value: []byte(now.Add(d).UTC().Format(timeFormat))},
		kgo.RecordHeader{Key: HeaderFailed, Value: strconv.AppendInt(nil, int64(f.tries), 10)},
		kgo.RecordHeader{Key: HeaderFirstAt, Value: []byte(first.UTC().Format(timeFormat))},
	)
	return &kgo.Record{Topic: c.RetryTopic, Key: rec.Key, Value: rec.Value, Headers: h, Timestamp: rec.Timestamp}
}

func originHeader(ev *Event) kgo.RecordHeader {
	return kgo.RecordHeader{Key: HeaderOrigin, Value: []byte(place(ev.Topic, ev.Partition, ev.Offset))}
}
