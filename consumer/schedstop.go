package consumer

import "time"

// pause holds back what has not begun.
func (s *sched) pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = true
	s.nudge.Add(1)
	kick(s.empty)
}

func (s *sched) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = s.frozen
	s.wake.Broadcast()
}

// freeze is a pause for good.
func (s *sched) freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused, s.frozen = true, true
	s.nudge.Add(1)
	kick(s.empty)
}

// stop ends the workers; their partitions have been revoked before.
func (s *sched) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.nudge.Add(1)
	s.wake.Broadcast()
}

// revoke lets what runs for the partitions come to an end, and what would leave
// holes: where keys are dispatched, records below the highest offset begun. The
// rest is dropped; whoever owns the partition next reads it again. It returns
// when all is quiet or the time is over; then the calls' contexts end, and after
// a last moment they no longer count.
func (s *sched) revoke(parts []*part, budget, moment time.Duration) {
	s.mu.Lock()
	for _, p := range parts {
		p.state = revoked
		s.dropHeld(p)
		for _, q := range p.keys {
			s.shorten(q)
		}
		s.checkIdle(p)
	}
	s.nudge.Add(1)
	s.wake.Broadcast()
	s.mu.Unlock()

	await(parts, budget)
	for _, p := range parts {
		p.cancel()
	}
	await(parts, moment)

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range parts {
		s.abandonLocked(p)
	}
}

// lastMoment is what a handler gets to return after its context has ended.
const lastMoment = time.Second

func (s *sched) dropHeld(p *part) {
	s.held.Add(-int64(p.held.len()))
	p.held.cut(0)
	if p.timer != nil {
		p.timer.Stop()
	}
}

// shorten drops of a queue what need not be done any more.
func (s *sched) shorten(q *keyq) {
	keep := 0
	switch {
	case q.state == busy:
		keep = q.taken
	case q.state == queued && !s.paused:
	default:
		s.dropKey(q)
		return
	}
	items := q.items.all()
	for keep < len(items) && items[keep].rec.Offset <= q.part.started {
		keep++
	}
	if keep == 0 {
		s.dropKey(q)
		return
	}
	s.dropItems(items[keep:])
	q.items.cut(keep)
}

// abandon drops everything at once: the partition is somebody else's already.
func (s *sched) abandon(parts []*part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range parts {
		s.dropHeld(p)
		s.abandonLocked(p)
	}
	s.nudge.Add(1)
}

func (s *sched) abandonLocked(p *part) {
	p.state = gone
	p.cancel()
	for _, q := range p.keys {
		if q.state != busy {
			s.dropKey(q)
		}
	}
}

// busy counts the workers that have not come back.
func (s *sched) busy(parts []*part) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, p := range parts {
		n += p.running
	}
	return n
}

func await(parts []*part, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for _, p := range parts {
		select {
		case <-p.idle:
		case <-timer.C:
			return
		}
	}
}
