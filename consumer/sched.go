package consumer

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// turn is how many records of one key a worker takes at a time.
const turn = 8

// sched hands records to workers. With one worker it hands out whole runs of a
// partition, and a key has a queue only while its first event is tried again.
// With more, each key with work has a queue, and a queue is with one worker at
// most: that is what keeps the order per key, and nothing else waits for it.
type sched struct {
	mu      sync.Mutex
	wake    *sync.Cond
	ready   fifo[*keyq]
	runs    fifo[*run]
	spare   []*keyq
	paused  bool
	frozen  bool // paused for good
	stopped bool
	keyed   bool // each record goes to the queue of its key
	working int  // workers that have taken something

	// nudge changes when workers have to look up: a key is due beside a run,
	// the consumer pauses, a partition goes. It saves a lock for each record.
	nudge atomic.Uint64

	records atomic.Int64 // in flight: tracked, neither done nor dropped
	bytes   atomic.Int64
	held    atomic.Int64  // of the retry topic, not due; not in flight
	waiting atomic.Bool   // the reader waits for room
	room    chan struct{} // kicks the reader; holds one
	empty   chan struct{} // kicks Drain; holds one
}

// item is one record on its way.
type item struct {
	rec *kgo.Record
	c   *chunk
	i   int
}

// run is what is left of a chunk, in order.
type run struct {
	c    *chunk
	recs []*kgo.Record
	at   int
}

// keyq is the events of one key that wait for their turn.
type keyq struct {
	part   *part
	key    string
	items  fifo[item]
	state  keyState
	taken  int // by the worker
	failed int // attempts of the first item
	first  time.Time
	timer  *time.Timer
}

type keyState uint8

const (
	queued  keyState = iota // in ready
	busy                    // with a worker
	backoff                 // until its timer
	dropped                 // whoever still holds it lets it go
)

func newSched(keyed bool) *sched {
	s := &sched{keyed: keyed, room: make(chan struct{}, 1), empty: make(chan struct{}, 1)}
	s.wake = sync.NewCond(&s.mu)
	return s
}

// sizeOf is about what a record occupies.
func sizeOf(r *kgo.Record) int64 {
	return int64(256 + len(r.Key) + len(r.Value) + 64*len(r.Headers))
}

func (s *sched) admit(n, bytes int64) {
	s.records.Add(n)
	s.bytes.Add(bytes)
}

// release takes records out of the account, done or not.
func (s *sched) release(n, bytes int64) {
	if n == 0 {
		return
	}
	s.bytes.Add(-bytes)
	if s.records.Add(-n) == 0 {
		kick(s.empty)
	}
	if s.waiting.Load() {
		kick(s.room)
	}
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// keyOf is the order that a record belongs to. Records without a key have none:
// each is its own.
func keyOf(r *kgo.Record) string {
	if r.Key == nil {
		return "\x00" + strconv.FormatInt(r.Offset, 10)
	}
	return view(r.Key)
}

// enqueueRun hands over a chunk to the one worker.
func (s *sched) enqueueRun(c *chunk, recs []*kgo.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs.push(&run{c: c, recs: recs})
	s.wake.Signal()
}

// enqueue hands over records to the queues of their keys.
func (s *sched) enqueue(items []item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range items {
		s.enqueueLocked(it)
	}
}

func (s *sched) enqueueLocked(it item) {
	p := it.c.part
	key := keyOf(it.rec)
	if q := p.keys[key]; q != nil {
		q.items.push(it)
		return
	}
	q := s.newKey(p, key)
	q.items.push(it)
	s.addKey(q)
	s.makeReady(q)
}

// newKey takes a queue that was used before, if there is one: under load there
// is one for every few events.
func (s *sched) newKey(p *part, key string) *keyq {
	n := len(s.spare)
	if n == 0 {
		return &keyq{part: p, key: key}
	}
	q := s.spare[n-1]
	s.spare[n-1] = nil
	s.spare = s.spare[:n-1]
	*q = keyq{part: p, key: key, items: fifo[item]{items: q.items.items[:0]}}
	return q
}

// maxSpare bounds the queues kept for reuse, and spareRoom what each may hold.
const (
	maxSpare  = 1024
	spareRoom = 16
)

// retire ends an empty queue that nobody else knows.
func (s *sched) retire(q *keyq) {
	s.dropKey(q)
	if len(s.spare) < maxSpare && cap(q.items.items) <= spareRoom {
		// Nothing but its room is kept: the key is a view of the batch that it
		// came in.
		*q = keyq{state: dropped, items: fifo[item]{items: q.items.items[:0]}}
		s.spare = append(s.spare, q)
	}
}

func (s *sched) addKey(q *keyq) {
	q.part.keys[q.key] = q
	q.part.parked.Store(int32(len(q.part.keys)))
}

func (s *sched) makeReady(q *keyq) {
	q.state = queued
	s.ready.push(q)
	if !s.keyed {
		s.nudge.Add(1)
	}
	s.wake.Signal()
}

// behind queues a record of a run behind an event of its key that is being
// tried again, if there is one.
func (s *sched) behind(it item) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := it.c.part.keys[keyOf(it.rec)]
	if q == nil {
		return false
	}
	q.items.push(it)
	return true
}

// park gives the failed record of a run a queue of its own, until d has passed.
func (s *sched) park(it item, first time.Time, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &keyq{part: it.c.part, key: keyOf(it.rec), failed: 1, first: first}
	q.items.push(it)
	s.addKey(q)
	s.later(q, d)
}

// later waits with a queue. A partition that goes does not wait.
func (s *sched) later(q *keyq, d time.Duration) {
	if q.part.state != live {
		s.dropKey(q)
		return
	}
	q.state = backoff
	q.timer = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if q.state == backoff {
			s.makeReady(q)
		}
	})
}

// dropKey forgets a queue with all that is in it.
func (s *sched) dropKey(q *keyq) {
	s.dropItems(q.items.all())
	q.items.cut(0)
	if q.timer != nil {
		q.timer.Stop()
	}
	q.state = dropped
	delete(q.part.keys, q.key)
	q.part.parked.Store(int32(len(q.part.keys)))
}

func (s *sched) dropItems(items []item) {
	var bytes int64
	for _, it := range items {
		bytes += sizeOf(it.rec)
	}
	s.release(int64(len(items)), bytes)
}

// take waits for work: a key's queue, whose first items are then in w.items, or
// a run. ok is false at the end.
func (s *sched) take(w *worker) (q *keyq, r *run, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		w.nudge = s.nudge.Load()
		if s.stopped {
			return nil, nil, false
		}
		if !s.paused {
			if q, ok := s.ready.pop(); ok {
				if q.state != queued {
					continue // dropped meanwhile
				}
				q.state = busy
				q.taken = min(turn, q.items.len())
				w.items = append(w.items[:0], q.items.all()[:q.taken]...)
				p := q.part
				p.running++
				s.working++
				p.started = max(p.started, w.items[q.taken-1].rec.Offset)
				return q, nil, true
			}
			if r, ok := s.runs.pop(); ok {
				if r.c.part.state != live {
					s.dropRun(r)
					continue
				}
				r.c.part.running++
				s.working++
				return nil, r, true
			}
		}
		s.wake.Wait()
	}
}

func (s *sched) dropRun(r *run) {
	var bytes int64
	for _, rec := range r.recs[r.at:] {
		bytes += sizeOf(rec)
	}
	s.release(int64(len(r.recs)-r.at), bytes)
}

// finishKey takes back a queue of which the first n items are done. With again,
// the next one failed and waits for d.
func (s *sched) finishKey(q *keyq, n int, again bool, d time.Duration, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := q.part
	s.returned(p)
	if n > 0 {
		q.items.drop(n)
		q.failed = 0
	}
	switch {
	case p.state == gone:
		s.dropKey(q)
	case again:
		if q.failed == 0 {
			q.first = now
		}
		q.failed++
		s.later(q, d)
	case q.items.len() == 0:
		s.retire(q)
	case p.state == revoked && s.paused:
		s.dropKey(q)
	default:
		s.makeReady(q)
	}
	s.checkIdle(p)
}

// abandonKey takes back a queue whose n first items are done and whose next one
// will not be, here.
func (s *sched) abandonKey(q *keyq, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.returned(q.part)
	q.items.drop(n)
	s.dropKey(q)
	s.checkIdle(q.part)
}

// finishRun takes back a run that was interrupted or is done.
func (s *sched) finishRun(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := r.c.part
	s.returned(p)
	if r.at < len(r.recs) {
		if p.state == live {
			s.runs.pushFront(r)
		} else {
			s.dropRun(r)
		}
	}
	s.checkIdle(p)
}

// returned takes note that a worker has come back.
func (s *sched) returned(p *part) {
	p.running--
	s.working--
	if s.paused && s.working == 0 {
		kick(s.empty)
	}
}

// quiet tells whether there is nothing to wait for: nothing is in flight or, as
// long as nothing may begin, nothing runs.
func (s *sched) quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records.Load() == 0 || s.paused && s.working == 0
}

func (s *sched) checkIdle(p *part) {
	if p.state == revoked && p.running == 0 && len(p.keys) == 0 {
		select {
		case <-p.idle:
		default:
			close(p.idle)
		}
	}
}
