package consumer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// part is one assigned partition, from its assignment until it is taken away.
type part struct {
	topic  string
	num    int32
	retry  bool // of the retry topic
	ctx    context.Context
	cancel context.CancelFunc
	end    atomic.Int64 // of what may be read, as the brokers said last

	// Of the one goroutine that judges records: the reader if keys are
	// dispatched, else the worker.
	seen    highWater
	replays recent

	mu        sync.Mutex
	chunks    []*chunk  // not yet done as a whole, oldest first
	base      highWater // marks at next
	next      int64     // where the unbroken run of done records ends; -1: no record yet
	epoch     int32     // of the leader that wrote the record before next
	committed int64     // next, as last acknowledged by the coordinator

	// Guarded by the scheduler's lock.
	state   partState
	running int   // workers busy with it
	started int64 // highest offset that a worker was given, where keys are dispatched
	keys    map[string]*keyq
	held    fifo[item]  // of the retry topic, not due
	timer   *time.Timer // for the first of them
	idle    chan struct{}

	parked atomic.Int32 // len(keys), for a look without the lock
}

type partState uint8

const (
	live    partState = iota
	revoked           // what runs may end
	gone              // what still runs does not count
)

func newPart(ctx context.Context, topic string, num int32, remember int) *part {
	p := &part{topic: topic, num: num, next: -1, committed: -1, started: -1, keys: map[string]*keyq{}, idle: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.replays.max = remember
	return p
}

// chunk is what one fetch brought of one partition: which of its records are
// done. The records themselves belong to whoever handles them, so that one
// record that waits does not keep all that came with it.
type chunk struct {
	part   *part
	offs   []int64
	done   []uint32 // atomic; 1 is done
	marks  []mark   // with HighWater; set before done
	first  int32    // leader epochs of the first
	latest int32    // and of the last record
	at     int      // first that is not done; guarded by part.mu
}

// track registers records in the order of their offsets.
func (p *part) track(recs []*kgo.Record, marks bool) *chunk {
	c := &chunk{part: p, offs: make([]int64, len(recs)), done: make([]uint32, len(recs))}
	c.first, c.latest = recs[0].LeaderEpoch, recs[len(recs)-1].LeaderEpoch
	for i, r := range recs {
		c.offs[i] = r.Offset
	}
	if marks {
		c.marks = make([]mark, len(recs))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next < 0 {
		p.next, p.epoch = c.offs[0], c.first
	}
	p.chunks = append(p.chunks, c)
	return c
}

func (c *chunk) settle(i int) { atomic.StoreUint32(&c.done[i], 1) }

// advance moves next over what has been done and returns it. With HighWater
// the marks that belong to it are base.
func (p *part) advance() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.chunks) > 0 {
		c := p.chunks[0]
		for c.at < len(c.done) && atomic.LoadUint32(&c.done[c.at]) == 1 {
			if c.marks != nil {
				p.base.put(&c.marks[c.at])
			}
			c.at++
		}
		if c.at < len(c.done) {
			// The record that is not done is where the next owner begins.
			p.next, p.epoch = c.offs[c.at], c.first
			break
		}
		p.next, p.epoch = c.offs[len(c.offs)-1]+1, c.latest
		p.chunks[0] = nil
		p.chunks = p.chunks[1:]
	}
	return p.next
}
