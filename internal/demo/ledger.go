package demo

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
)

// fate is what became of a row's transaction.
type fate uint8

const (
	pending    fate = iota // COMMIT was sent, or is about to be
	committed              // Postgres said so
	rolledBack             // must never be seen
	doubtful               // the connection broke before the answer
)

type entry struct {
	fate    fate
	poison  bool
	sent    time.Time // when COMMIT was sent
	records uint16    // times seen in an events topic
	letters uint16    // times seen among the dead letters
}

func (e *entry) expected() bool { return e.fate == pending || e.fate == committed }

func (e *entry) arrived() bool {
	if e.poison {
		return e.letters > 0
	}
	return e.records > 0
}

// row is what the generator plans and the ledger keeps.
type row struct {
	id     uuid.UUID
	key    string
	seq    uint64 // grows by one per row of a key, in commit order
	poison bool
}

// ledger compares what was committed with what a consumer saw. It is the
// demo's judge, so it takes its facts from the two ends only: the answers of
// Postgres and the records of a read_committed consumer.
type ledger struct {
	mu   sync.Mutex
	rows map[uuid.UUID]*entry
	last map[string]uint64 // newest sequence seen per key

	counts  counts
	waiting int // committed and not arrived
	first   time.Time
	latest  time.Time     // last arrival, to see a stall
	empty   chan struct{} // closed when nothing is waited for; nil: nobody asks

	latency latency
}

// counts are rows unless named otherwise.
type counts struct {
	Committed, RolledBack, Doubtful  int
	Published, Letters               int
	Duplicated, Reordered, Phantom   int
	Foreign, Misrouted               int
	Transactions, TransactionsUndone int
	VisibleRecords, PhysicalRecords  int // of the events topic
}

func newLedger() *ledger {
	return &ledger{
		rows:    map[uuid.UUID]*entry{},
		last:    map[string]uint64{},
		latency: newLatency(),
	}
}

// announce enters the rows of a transaction whose COMMIT or ROLLBACK is about
// to be sent: a record may be seen before Postgres answers.
func (l *ledger) announce(rows []row, commit bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := pending
	if !commit {
		f = rolledBack
		l.counts.RolledBack += len(rows)
		l.counts.TransactionsUndone++
	}
	for _, r := range rows {
		l.rows[r.id] = &entry{fate: f, poison: r.poison, sent: now}
		if commit {
			l.waiting++
		}
	}
}

// settle enters the answer to COMMIT. A transaction in doubt is settled later
// by looking into the table.
func (l *ledger) settle(rows []row, f fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rows {
		e := l.rows[r.id]
		l.move(e, f)
	}
	if f == committed {
		l.counts.Transactions++
	}
}

func (l *ledger) move(e *entry, f fate) {
	was := e.expected()
	switch e.fate {
	case committed:
		l.counts.Committed--
	case doubtful:
		l.counts.Doubtful--
	case rolledBack:
		l.counts.RolledBack--
	}
	e.fate = f
	switch f {
	case committed:
		l.counts.Committed++
	case doubtful:
		l.counts.Doubtful++
	case rolledBack:
		l.counts.RolledBack++
	}
	if is := e.expected(); was != is && !e.arrived() {
		if is {
			l.waiting++
		} else {
			l.waiting--
			l.tellEmpty()
		}
	}
	if f == rolledBack && (e.records > 0 || e.letters > 0) {
		l.counts.Phantom++
	}
}

// inDoubt returns the rows whose fate only the table knows.
func (l *ledger) inDoubt() []uuid.UUID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []uuid.UUID
	for id, e := range l.rows {
		if e.fate == doubtful || e.fate == pending {
			ids = append(ids, id)
		}
	}
	return ids
}

func (l *ledger) resolve(id uuid.UUID, there bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := rolledBack
	if there {
		f = committed
	}
	l.move(l.rows[id], f)
}

// sawRecord enters a record of an events topic.
func (l *ledger) sawRecord(id uuid.UUID, key string, seq uint64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.VisibleRecords++
	e, ok := l.rows[id]
	if !ok {
		l.counts.Foreign++
		return
	}
	e.records++
	switch {
	case e.records > 1:
		l.counts.Duplicated++
		return // says nothing about order
	case e.fate == rolledBack:
		l.counts.Phantom++
		return
	case e.poison:
		l.counts.Misrouted++
		return
	}
	if seq <= l.last[key] {
		l.counts.Reordered++
	} else {
		l.last[key] = seq
	}
	l.counts.Published++
	l.arrive(e, now)
}

// sawLetter enters a dead letter.
func (l *ledger) sawLetter(id uuid.UUID, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.rows[id]
	if !ok {
		l.counts.Foreign++
		return
	}
	e.letters++
	switch {
	case e.letters > 1:
		l.counts.Duplicated++
		return
	case e.fate == rolledBack:
		l.counts.Phantom++
		return
	case !e.poison:
		l.counts.Misrouted++
		return
	}
	l.counts.Letters++
	l.arrive(e, now)
}

func (l *ledger) arrive(e *entry, now time.Time) {
	if e.expected() {
		l.waiting--
		l.tellEmpty()
	}
	l.latest = now
	if l.first.IsZero() {
		l.first = now
	}
	l.latency.record(e.sent, now)
}

// sawPhysical counts a record that is in the log, visible or not.
func (l *ledger) sawPhysical() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.PhysicalRecords++
}

func (l *ledger) tellEmpty() {
	if l.waiting == 0 && l.empty != nil {
		close(l.empty)
		l.empty = nil
	}
}

// awaitEmpty blocks until everything committed has arrived. It gives up, and
// says so, when nothing has arrived for as long as stall.
func (l *ledger) awaitEmpty(ctx context.Context, stall time.Duration) bool {
	l.mu.Lock()
	if l.waiting == 0 {
		l.mu.Unlock()
		return true
	}
	empty := make(chan struct{})
	l.empty = empty
	l.mu.Unlock()
	began := time.Now()
	tick := time.NewTicker(max(stall/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-empty:
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
			if s := l.state(); time.Since(began) > stall && time.Since(s.Last) > stall {
				return false
			}
		}
	}
}

// outageBegins marks a time in which the relay is away, or catching up.
func (l *ledger) outageBegins(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latency.outageBegins(now)
}

func (l *ledger) outageEnds(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latency.outageEnds(now)
}

// state is a consistent copy for the screen and for the verdict.
type state struct {
	counts
	Waiting      int
	First, Last  time.Time
	Steady, Full percentiles
}

func (l *ledger) state() state {
	l.mu.Lock()
	defer l.mu.Unlock()
	return state{
		counts: l.counts, Waiting: l.waiting, First: l.first, Last: l.latest,
		Steady: percentilesOf(l.latency.steady), Full: percentilesOf(l.latency.all),
	}
}
