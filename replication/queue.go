package replication

import (
	"context"
	"sync"
)

// queue carries transactions from the reader to Next. It is bounded by bytes,
// not by items: a thousand one-row transactions and one 64 MiB row must both
// fit the memory that the operator was promised. The consumer takes all that
// waits at once, so under load neither side pays for each transaction.
type queue struct {
	limit int
	ready chan struct{} // something may be there to take
	room  chan struct{} // something was taken

	mu    sync.Mutex
	items []*Tx
	bytes int
	err   error // set once: nothing more will come
}

func newQueue(limit int) *queue {
	return &queue{limit: limit, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// txOverhead is charged for each item on top of its data.
const txOverhead = 256

// put appends tx. It reports whether there is room for more; one item always
// fits, whatever its size.
func (q *queue) put(tx *Tx) bool {
	q.mu.Lock()
	if n := len(q.items); n > 0 && tx.Idle && q.items[n-1].Idle {
		// Idle positions only ever replace each other: a server that sends
		// ten thousand keepalives a second must not fill the queue. One that
		// was sent while a commit was being written carries an older position.
		tx.ReplyAsked = tx.ReplyAsked || q.items[n-1].ReplyAsked
		tx.EndLSN = max(tx.EndLSN, q.items[n-1].EndLSN)
		q.items[n-1] = tx
	} else {
		q.items = append(q.items, tx)
		q.bytes += tx.Bytes + txOverhead
	}
	room := q.bytes < q.limit
	q.mu.Unlock()
	signal(q.ready)
	return room
}

// hasRoom tells whether the reader may go on.
func (q *queue) hasRoom() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes < q.limit
}

// close makes take return err once the queue is empty.
func (q *queue) close(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.mu.Unlock()
	signal(q.ready)
}

// take returns everything that waits, or blocks until there is something.
func (q *queue) take(ctx context.Context) ([]*Tx, error) {
	for {
		q.mu.Lock()
		items, err := q.items, q.err
		q.items, q.bytes = nil, 0
		q.mu.Unlock()
		if len(items) > 0 {
			signal(q.room)
			return items, nil
		}
		if err != nil {
			signal(q.ready) // for the next caller
			return nil, err
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
