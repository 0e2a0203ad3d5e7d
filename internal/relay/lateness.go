package relay

import (
	"sync"
	"time"
)

// lateness is how far behind the database this replica is, and with how much in
// its hands. While rows are read, the oldest of them tells. Between sessions
// nobody can tell what waits in the WAL, and what is counted from is the moment
// up to which everything is known to be delivered: a Kafka that is away for an
// hour makes it an hour, although nothing was read in it. It is asked at a
// scrape and told at changes, and costs the stream nothing.
type lateness struct {
	mu    sync.Mutex
	buf   *gathering // of the session that reads, else nil
	since time.Time  // up to here all was delivered; zero: nothing is owed but what buf says
}

// hold is told that the slot was taken. What was owed before stays owed.
func (l *lateness) hold(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		l.since = now
	}
}

// stream is told that rows are read into b. What was owed is, until the first
// group has landed: a session that begins and cannot commit is no progress.
func (l *lateness) stream(b *gathering) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = b
}

// landed is told that a group was delivered, or that there was nothing to.
func (l *lateness) landed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Time{}
}

// interrupt is told that rows are not read any more. A replica that did not
// hold the slot owes nothing.
func (l *lateness) interrupt(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf == nil {
		return
	}
	owed := l.buf.stock().oldest
	if owed.IsZero() {
		owed = now
	}
	if l.since.IsZero() || owed.Before(l.since) {
		l.since = owed
	}
	l.buf = nil
}

// rest is told that another replica holds the slot, or that there is an end.
func (l *lateness) rest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf, l.since = nil, time.Time{}
}

func (l *lateness) stock() stock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf == nil {
		return stock{}
	}
	return l.buf.stock()
}

func (l *lateness) seconds(now time.Time) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.since
	if l.buf != nil {
		if oldest := l.buf.stock().oldest; from.IsZero() || !oldest.IsZero() && oldest.Before(from) {
			from = oldest
		}
	}
	if from.IsZero() {
		return 0
	}
	return max(0, now.Sub(from).Seconds()) // the clocks of two machines
}

// stopwatch adds up how long something lasted, what lasts still included.
type stopwatch struct {
	mu    sync.Mutex
	total time.Duration
	since time.Time // zero: it stands still
}

// start begins to measure; the function that it returns ends it.
func (w *stopwatch) start() (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = time.Now()
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.total += time.Since(w.since)
		w.since = time.Time{}
	}
}

func (w *stopwatch) seconds(now time.Time) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.total
	if !w.since.IsZero() {
		d += now.Sub(w.since)
	}
	return d.Seconds()
}
