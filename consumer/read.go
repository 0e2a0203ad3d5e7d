package consumer

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// pollPause is how long the reader waits after a poll that brought only errors:
// the client tries again what it can by itself.
const pollPause = 200 * time.Millisecond

// read polls and hands over until ctx ends. A rebalance is held back from the
// poll to the end of the hand-over, which does not wait for anything: no record
// of a partition can turn up after it was taken away.
func (c *Consumer) read(ctx context.Context) {
	judge := &judge{c: c, parser: parser{retry: c.cfg.RetryTopic}, mean: firstMean}
	for {
		if !c.room(ctx) {
			return
		}
		poll, err := c.draining.enter(ctx)
		if err != nil {
			return
		}
		fetched := c.client.PollRecords(poll, judge.most())
		fatal, noisy := c.pollErrors(ctx, fetched)
		fetched.EachPartition(judge.partition)
		c.client.AllowRebalance()
		c.draining.leave()
		if fatal != nil {
			c.fail(fatal)
			return
		}
		if noisy && !sleep(ctx, pollPause) {
			return
		}
	}
}

// room waits until so much is done that a poll is worth it: a quarter of the
// records, or all of the bytes that are too many.
func (c *Consumer) room(ctx context.Context) bool {
	s := c.sched
	free := func() bool {
		return s.records.Load() <= int64(c.cfg.MaxInFlight-c.cfg.MaxInFlight/4) && s.records.Load() < int64(c.cfg.MaxInFlight) &&
			s.bytes.Load() < c.cfg.MaxInFlightBytes
	}
	s.waiting.Store(true)
	defer s.waiting.Store(false)
	for !free() {
		select {
		case <-s.room:
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}

// pollErrors sorts the errors of a poll: those that end Run, and whether there
// were others.
func (c *Consumer) pollErrors(ctx context.Context, fetched kgo.Fetches) (fatal error, noisy bool) {
	fetched.EachError(func(topic string, partition int32, err error) {
		switch {
		case ctx.Err() != nil, errors.Is(err, context.Canceled):
		case errors.Is(err, kgo.ErrClientClosed), errors.Is(err, kerr.FencedInstanceID),
			errors.Is(err, kerr.GroupAuthorizationFailed), errors.Is(err, kerr.TopicAuthorizationFailed):
			fatal = err
		default:
			noisy = true
			c.log.Warn("poll", slog.String("topic", topic), slog.Int("partition", int(partition)), slog.Any("error", err))
		}
	})
	return fatal, noisy
}

// judge is the reader's side of a record: it registers it, applies the marks
// where workers see records out of order, and hands it over.
type judge struct {
	parser
	c     *Consumer
	ev    Event
	tally tally
	items []item
	mean  int64 // bytes per record of late
}

// firstMean is what records are taken to occupy before any were seen: so much
// that the first poll takes few.
const firstMean = 64 << 10

// most is how many records the next poll may bring. The client counts records
// only, so the bytes are guessed from what came before.
func (j *judge) most() int {
	s, cfg := j.c.sched, &j.c.cfg
	n := int64(cfg.MaxInFlight) - s.records.Load()
	return int(max(min(n, (cfg.MaxInFlightBytes-s.bytes.Load())/j.mean), 1))
}

func (j *judge) partition(ftp kgo.FetchTopicPartition) {
	c := j.c
	p := c.part(ftp.Topic, ftp.Partition)
	if p == nil {
		return // taken away, and will be read by its owner
	}
	end := ftp.LastStableOffset
	if c.cfg.ReadUncommitted || end < 0 {
		end = ftp.HighWatermark
	}
	p.end.Store(end)
	recs := ftp.Records
	if len(recs) == 0 {
		return
	}
	marks := c.cfg.Dedupe == HighWater
	chunk := p.track(recs, marks)
	var bytes int64
	for _, r := range recs {
		bytes += sizeOf(r)
	}
	c.sched.admit(int64(len(recs)), bytes)
	j.mean = max((j.mean+bytes/int64(len(recs)))/2, 1)
	if !p.retry && !c.sched.keyed {
		c.sched.enqueueRun(chunk, recs)
		return
	}

	j.items = j.items[:0]
	var gone, goneBytes int64
	for i, r := range recs {
		if r.Attrs.IsControl() || marks && !j.admits(r, chunk, i) {
			chunk.settle(i)
			gone++
			goneBytes += sizeOf(r)
			continue
		}
		j.items = append(j.items, item{r, chunk, i})
	}
	c.sched.release(gone, goneBytes)
	j.tally.flush(c.metrics)
	if p.retry {
		c.hold(p, j.items)
	} else {
		c.sched.enqueue(j.items)
	}
	clear(j.items)
}

func (j *judge) admits(r *kgo.Record, chunk *chunk, i int) bool {
	j.parse(r, &j.ev)
	return j.c.admit(&j.ev, chunk, i, &j.tally)
}

// admit applies the high-water marks, for each record once and in the order of
// the partition. What comes out of order by its nature is told by identity.
func (c *Consumer) admit(ev *Event, chunk *chunk, i int, t *tally) bool {
	p := chunk.part
	if ev.bad != "" || ev.group != "" && ev.group != c.cfg.Group {
		return true // becomes a letter, or is skipped, without a mark
	}
	if p.retry || ev.Replayed {
		if !p.replays.add(strings.Join([]string{ev.Identity(), ev.replayedAt, ev.due.String()}, " ")) {
			t.skipped[skipReplay]++
			return false
		}
		return true
	}
	m, v := p.seen.see(ev)
	chunk.marks[i] = m
	switch v {
	case stale:
		// A recovery after a restore or a move has positions of a new history, and
		// cannot say when its rows were committed.
		if ev.recovered && p.replays.add(ev.Identity()) {
			return true
		}
		t.skipped[skipHighWater]++
		return false
	case rewound:
		t.rewound++
		c.log.Warn("the source's positions begin anew, and so does its mark", append(where(ev),
			slog.String("source", ev.Position.Source), slog.String("lsn", ev.Position.LSN.String()))...)
	case unknown:
		t.unmarked++
	}
	return true
}

// hold keeps records of the retry topic until they are due. Meanwhile their
// partition is not fetched: what is behind them is due later, or not by much.
// They are apart from what is in flight, or a retry topic could fill the room
// that the events need; Config.MaxInFlight bounds them too, to within one poll.
func (c *Consumer) hold(p *part, items []item) {
	if c.sched.hold(p, items, func() { c.hold(p, nil) }) {
		c.client.PauseFetchPartitions(map[string][]int32{p.topic: {p.num}})
	} else {
		c.client.ResumeFetchPartitions(map[string][]int32{p.topic: {p.num}})
	}
	if c.sched.held.Load() >= int64(c.cfg.MaxInFlight) {
		c.client.PauseFetchTopics(p.topic)
	} else {
		c.client.ResumeFetchTopics(p.topic)
	}
}

// hold adds records and releases those that are due. It tells whether some are
// left, for whose first it sets a timer.
func (s *sched) hold(p *part, items []item, due func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropItems(items)
	if p.state != live {
		return false
	}
	for _, it := range items {
		p.held.push(it)
	}
	s.held.Add(int64(len(items)))
	for p.held.len() > 0 {
		it := p.held.all()[0]
		if wait := time.Until(notBefore(it.rec)); wait > 0 {
			if p.timer != nil {
				p.timer.Stop()
			}
			p.timer = time.AfterFunc(wait, due)
			return true
		}
		p.held.drop(1)
		s.held.Add(-1)
		s.admit(1, sizeOf(it.rec))
		s.enqueueLocked(it)
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
