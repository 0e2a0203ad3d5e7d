package relay

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/replication"
)

// Limits bound one Kafka transaction.
type Limits struct {
	// Size is where the limit starts: the rows that an idle relay takes at
	// most into one transaction. It never waits to fill it.
	Size int
	// Max and MaxBytes are what the limit may grow to while there is more
	// waiting than fits, and where a single source transaction is cut.
	Max      int
	MaxBytes int
}

// group is what goes into one Kafka transaction.
type group struct {
	records []*kgo.Record
	bytes   int
	letters uint64
	pos     checkpoint.Position
	lastTx  checkpoint.Transaction
	oldest  time.Time // commit time of the first transaction
	reply   bool      // Postgres waits for this position

	// Of a group that holds no rows: letters that were parked and go on, and
	// the marks that say so.
	released []*kgo.Record
	marks    []*kgo.Record
}

func (g *group) empty() bool { return g == nil || len(g.records) == 0 }

// gathering collects translated rows while a commit is under way: all that
// waits goes into the next one. ready holds complete transactions, open the
// rows of one whose commit has not been read yet; only ready is taken, unless
// open alone is over the limits and has to be cut.
type gathering struct {
	limits Limits

	mu    sync.Mutex
	limit int // rows; between limits.Size and limits.Max
	ready *group
	open  group
	pos   checkpoint.Position // after everything in ready

	flight stock // what was taken and has not landed

	nudged bool // take is to return with nothing

	filled chan struct{} // something may be ready
	taken  chan struct{} // ready was taken

	metrics *Metrics
}

// stock is what was read and is not delivered.
type stock struct {
	records, bytes int
	oldest         time.Time // commit of the oldest; zero if there is none
}

func (g *group) stock() stock {
	if g.empty() {
		return stock{}
	}
	return stock{records: len(g.records), bytes: g.bytes, oldest: g.oldest}
}

func (s stock) and(newer stock) stock {
	if s.oldest.IsZero() {
		s.oldest = newer.oldest
	}
	s.records += newer.records
	s.bytes += newer.bytes
	return s
}

// stock is what is gathered and under way. Any goroutine may ask.
func (b *gathering) stock() stock {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flight.and(b.ready.stock()).and(b.open.stock())
}

// landed notes that what was taken is delivered.
func (b *gathering) landed() {
	b.mu.Lock()
	b.flight = stock{}
	b.mu.Unlock()
}

func newGathering(l Limits, base checkpoint.Checkpoint) *gathering {
	return &gathering{
		limits: l, limit: l.Size, pos: base.Pos, open: group{lastTx: base.LastTx},
		filled: make(chan struct{}, 1), taken: make(chan struct{}, 1),
	}
}

// idle notes that everything below end has been gathered.
func (b *gathering) idle(end pglogrepl.LSN, reply bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complete(end, 0)
	b.ready.reply = b.ready.reply || reply
	signal(b.filled)
}

// complete moves the position past everything gathered so far: up to end, and
// past the transaction that commits at commit, if there is one.
func (b *gathering) complete(end, commit pglogrepl.LSN) {
	if b.ready == nil {
		b.ready = &group{lastTx: b.open.lastTx}
	}
	if end > b.pos.EndLSN {
		b.pos.EndLSN = end
	}
	// Only its commit completes a transaction that is cut. An idle position can
	// come before the rest of it does, after a restart.
	if commit != 0 {
		b.pos.CommitLSN, b.pos.Ordinal = commit, 0
	}
	b.ready.pos = b.pos
}

// add takes the translated rows of one part. It blocks while the limits are
// reached and something is ready to be taken.
func (b *gathering) add(ctx context.Context, tx *replication.Tx, records []*kgo.Record, bytes int, letters uint64) error {
	b.mu.Lock()
	if len(b.open.records) == 0 {
		b.open.oldest = tx.CommitTime
	}
	b.open.records = append(b.open.records, records...)
	b.open.bytes += bytes
	b.open.letters += letters
	b.open.lastTx = checkpoint.Transaction{CommitLSN: tx.CommitLSN, EndLSN: tx.EndLSN, XID: tx.XID, CommitTime: tx.CommitTime}
	switch {
	case tx.Last:
		b.seal()
		b.complete(tx.EndLSN, tx.CommitLSN)
	case b.ready.empty() && b.over(len(b.open.records), b.open.bytes, b.limits.Max):
		// The transaction is larger than the limits: publish what is here.
		// EndLSN stays the end of its predecessor.
		b.seal()
		b.pos.CommitLSN, b.pos.Ordinal = tx.CommitLSN, tx.Rows[len(tx.Rows)-1].Ord
		b.ready.pos = b.pos
	}
	b.mu.Unlock()
	signal(b.filled)
	return b.room(ctx)
}

// seal moves the open rows into ready.
func (b *gathering) seal() {
	if b.ready == nil {
		g := b.open
		b.ready = &g
	} else {
		if len(b.ready.records) == 0 {
			b.ready.oldest = b.open.oldest
		}
		b.ready.records = append(b.ready.records, b.open.records...)
		b.ready.bytes += b.open.bytes
		b.ready.letters += b.open.letters
		b.ready.lastTx = b.open.lastTx
	}
	b.open = group{lastTx: b.open.lastTx}
}

func (b *gathering) over(rows, bytes, limit int) bool {
	return rows >= limit || bytes >= b.limits.MaxBytes
}

// room waits while more than the limit is gathered and something can be taken.
// Rows of an open transaction alone never make it wait: they have to go on
// until their commit, or until they are cut.
func (b *gathering) room(ctx context.Context) error {
	for {
		b.mu.Lock()
		full := !b.ready.empty() && b.over(len(b.ready.records)+len(b.open.records), b.ready.bytes+b.open.bytes, b.limit)
		b.mu.Unlock()
		if !full {
			return nil
		}
		done := b.metrics.waitsForKafka()
		select {
		case <-b.taken:
			done()
		case <-ctx.Done():
			done()
			return context.Cause(ctx)
		}
	}
}

// nudge makes take return, so that its caller can look round.
func (b *gathering) nudge() {
	b.mu.Lock()
	b.nudged = true
	b.mu.Unlock()
	signal(b.filled)
}

// take returns what is ready. A group without rows is only a position; it is
// returned when Postgres waits for it, or from idleAt on. It blocks otherwise.
func (b *gathering) take(ctx context.Context, stop <-chan struct{}, idleAt time.Time) (*group, error) {
	timer := time.NewTimer(time.Until(idleAt))
	defer timer.Stop()
	due := false
	for {
		b.mu.Lock()
		if b.nudged {
			b.nudged = false
			b.mu.Unlock()
			// There may be rows as well, and they were announced once.
			signal(b.filled)
			return nil, nil
		}
		g := b.ready
		if g != nil && (len(g.records) > 0 || g.reply || due) {
			b.ready, b.flight = nil, g.stock()
			b.adapt(len(g.records))
			b.mu.Unlock()
			signal(b.taken)
			return g, nil
		}
		b.mu.Unlock()
		select {
		case <-b.filled:
		case <-timer.C:
			due = true
		case <-stop:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// adapt lets the limit follow the load: a group that filled it says that more
// was waiting, one far below it that the relay keeps up.
func (b *gathering) adapt(rows int) {
	switch {
	case rows >= b.limit:
		b.limit = min(b.limit*2, b.limits.Max)
	case rows < b.limit/4:
		b.limit = max(b.limit/2, b.limits.Size)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
