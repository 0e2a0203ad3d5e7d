package consumer

import (
	"context"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// callbacks tie the group's rebalances to the partitions.
func (c *Consumer) callbacks(calls context.Context) []kgo.Opt {
	return []kgo.Opt{
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, tps map[string][]int32) {
			<-c.started
			c.assigned(calls, tps)
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, tps map[string][]int32) { c.revoked(tps) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, tps map[string][]int32) { c.lost(tps) }),
		kgo.OnOffsetsFetched(func(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
			c.restore(resp)
			return nil
		}),
	}
}

func (c *Consumer) assigned(calls context.Context, tps map[string][]int32) {
	if len(tps) == 0 {
		return // a cooperative rebalance that brought nothing
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, nums := range tps {
		if c.parts[topic] == nil {
			c.parts[topic] = map[int32]*part{}
		}
		for _, n := range nums {
			p := newPart(calls, topic, n, c.cfg.ReplayMemory)
			p.retry = topic == c.cfg.RetryTopic
			c.parts[topic][n] = p
		}
	}
	if retry := tps[c.cfg.RetryTopic]; len(retry) > 0 {
		// They may have been held still when they went.
		c.client.ResumeFetchPartitions(map[string][]int32{c.cfg.RetryTopic: retry})
		c.client.ResumeFetchTopics(c.cfg.RetryTopic)
	}
	c.metrics.rebalances.WithLabelValues(assigned).Inc()
	c.log.Info("partitions assigned", slog.Any("partitions", tps))
}

// restore reads the marks that were committed with the offsets. It comes after
// the assignment and before the first record.
func (c *Consumer) restore(resp *kmsg.OffsetFetchResponse) {
	if c.cfg.Dedupe != HighWater {
		return
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				c.restorePart(t.Topic, p.Partition, p.Metadata)
			}
		}
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			c.restorePart(t.Topic, p.Partition, p.Metadata)
		}
	}
}

func (c *Consumer) restorePart(topic string, n int32, metadata *string) {
	p := c.part(topic, n)
	if p == nil || metadata == nil {
		return
	}
	h, ok := decodeMarks(*metadata)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !ok || p.next >= 0 {
		return // records came already: the marks in memory are newer
	}
	p.base, p.seen = h, h.clone()
}

// revoked holds the rebalance back until the calls for the partitions have
// ended, or their time is over, and commits what they did.
func (c *Consumer) revoked(tps map[string][]int32) {
	parts := c.pick(tps)
	if len(parts) == 0 {
		return
	}
	c.metrics.rebalances.WithLabelValues(taken).Inc()
	c.sched.revoke(parts, c.limits.drain, c.limits.moment)
	// One lock for both: a further commit between them would take its time, and
	// the rebalance's.
	c.commitMu.Lock()
	err := c.commitLocked(context.Background(), c.limits.commit, parts)
	c.forgetLocked(parts)
	c.commitMu.Unlock()
	if err != nil {
		c.log.Warn("commit what is taken away; its new owner begins where the last commit was", slog.Any("error", err))
	}
	c.unblockRetries()
	c.log.Info("partitions revoked", slog.Any("partitions", tps))
}

// lost drops partitions that belong to somebody else by now. A commit would be
// refused, and must not be tried.
func (c *Consumer) lost(tps map[string][]int32) {
	parts := c.pick(tps)
	if len(parts) == 0 {
		return
	}
	c.metrics.rebalances.WithLabelValues(lostName).Inc()
	c.sched.abandon(parts)
	c.forget(parts)
	c.unblockRetries()
	c.log.Warn("partitions lost", slog.Any("partitions", tps))
}

// unblockRetries goes on with what is left of the retry topic, if what it was
// held still for has gone.
func (c *Consumer) unblockRetries() {
	if c.cfg.RetryTopic != "" && c.sched.held.Load() < int64(c.cfg.MaxInFlight) {
		c.client.ResumeFetchTopics(c.cfg.RetryTopic)
	}
}

func (c *Consumer) part(topic string, n int32) *part {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts[topic][n]
}

func (c *Consumer) pick(tps map[string][]int32) []*part {
	c.mu.Lock()
	defer c.mu.Unlock()
	var parts []*part
	for topic, nums := range tps {
		for _, n := range nums {
			if p := c.parts[topic][n]; p != nil {
				parts = append(parts, p)
			}
		}
	}
	return parts
}

func (c *Consumer) all() []*part {
	c.mu.Lock()
	defer c.mu.Unlock()
	var parts []*part
	for _, nums := range c.parts {
		for _, p := range nums {
			parts = append(parts, p)
		}
	}
	return parts
}

// forget removes partitions. A commit that is under way is waited for: later it
// could overwrite the new owner's.
func (c *Consumer) forget(parts []*part) {
	c.commitMu.Lock()
	defer c.commitMu.Unlock()
	c.forgetLocked(parts)
}

func (c *Consumer) forgetLocked(parts []*part) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range parts {
		delete(c.parts[p.topic], p.num)
	}
}
