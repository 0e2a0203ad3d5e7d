package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// commitOften commits on the interval until ctx ends.
func (c *Consumer) commitOften(ctx context.Context) {
	tick := time.NewTicker(c.cfg.CommitInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		parts := c.all()
		// What was not committed now is committed next time, with more.
		if err := c.commit(ctx, c.limits.commit, parts); err != nil && ctx.Err() == nil {
			c.log.Warn("commit offsets", slog.Any("error", err))
		}
		c.metrics.lags(parts)
	}
}

// commit commits the unbroken done prefix of the partitions that moved.
func (c *Consumer) commit(ctx context.Context, most time.Duration, parts []*part) error {
	c.commitMu.Lock()
	defer c.commitMu.Unlock()
	return c.commitLocked(ctx, most, parts)
}

func (c *Consumer) commitLocked(ctx context.Context, most time.Duration, parts []*part) error {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	marks := map[string]map[int32]string{}
	sent := map[*part]int64{}
	for _, p := range parts {
		next := p.advance()
		p.mu.Lock()
		moved := next >= 0 && next != p.committed
		epoch := p.epoch
		if moved && c.cfg.Dedupe == HighWater && !p.retry {
			put(marks, p, p.base.encode())
		}
		p.mu.Unlock()
		// A partition may have gone since the caller looked.
		if moved && c.part(p.topic, p.num) == p {
			put(offsets, p, kgo.EpochOffset{Epoch: epoch, Offset: next})
			sent[p] = next
		}
	}
	if len(sent) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			t := &req.Topics[i]
			for k := range t.Partitions {
				if m, ok := marks[t.Topic][t.Partitions[k].Partition]; ok {
					t.Partitions[k].Metadata = &m
				}
			}
		}
		return nil
	})
	var failed error
	c.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		failed = err
		if err == nil {
			failed = committed(resp)
		}
	})
	if failed != nil {
		c.metrics.commits.WithLabelValues("error").Inc()
		return fmt.Errorf("commit offsets of %d partitions: %w", len(sent), failed)
	}
	for p, next := range sent {
		p.mu.Lock()
		p.committed = next
		p.mu.Unlock()
	}
	c.metrics.commits.WithLabelValues("ok").Inc()
	return nil
}

// committed returns what the coordinator said against each partition.
func committed(resp *kmsg.OffsetCommitResponse) error {
	var all []error
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				all = append(all, fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, err))
			}
		}
	}
	return errors.Join(all...)
}

func put[V any](m map[string]map[int32]V, p *part, v V) {
	if m[p.topic] == nil {
		m[p.topic] = map[int32]V{}
	}
	m[p.topic][p.num] = v
}
