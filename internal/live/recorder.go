// Package live is what a running relay can tell about its last minutes: the
// last events, rates, latency, positions, and the feed of them over HTTP.
//
// Its job: the Recorder listens to the Kafka transactions of the relay, and the
// Feed puts together, once a second, what it has heard with the state of the
// relay and the view of the slot, as JSON, as server-sent events and as the
// history of a quarter of an hour that the page draws.
//
// Invariants: recording returns at once, keeps no record of the relay's and, once
// warm, allocates nothing but for letters. Nothing that is kept or shown is a payload, a key or
// the value of a header that a user wrote; ids and types are cut to a length. All
// that is read may be read from any goroutine. However many clients listen, a
// status is put together once a second; there is a most of them, and a slow one
// gets the newest status, not all of them.
//
// It leaves to others what the slot is like and what the states mean.
package live

import (
	"sync"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/relay"
)

// Recorder hears of each Kafka transaction.
type Recorder struct {
	now     func() time.Time
	started time.Time

	mu     sync.Mutex
	events ring
	window window
	at     position
}

// position is what is kept of the newest checkpoint.
type position struct {
	seq                     uint64
	timeline                int32
	lsn, commit             pglogrepl.LSN
	time, commitTime        time.Time
	rows, letters, released uint64
	parked                  int
	letterAt                time.Time // when the newest letter was written; zero: none by this process
}

// NewRecorder returns a recorder that has heard nothing yet.
func NewRecorder() *Recorder { return newRecorder(time.Now) }

func newRecorder(now func() time.Time) *Recorder {
	return &Recorder{now: now, started: now()}
}

// Opened tells the checkpoint that a session begins with; nil: there is none.
func (r *Recorder) Opened(ck *checkpoint.Checkpoint) {
	if ck == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at.take(ck)
}

// Commit is for relay.Relay.OnCommit.
func (r *Recorder) Commit(c relay.Commit) {
	size := 0
	for _, rec := range c.Records {
		size += len(rec.Key) + len(rec.Value)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, group := range [...][]recordPtr{c.Records, c.Released} {
		for _, rec := range group[max(0, len(group)-Events):] {
			r.events.add(rec, c.Ended)
		}
	}
	r.at.take(&c.Checkpoint)
	r.at.released += uint64(len(c.Released))
	if c.Letters > 0 {
		r.at.letterAt = c.Ended
	}
	b := r.window.at(c.Ended)
	b.commits++
	b.rows += uint64(len(c.Records))
	b.bytes += uint64(size)
	if len(c.Records) > 0 && !c.Oldest.IsZero() {
		b.latency.add(c.Ended.Sub(c.Oldest))
	}
}

func (p *position) take(ck *checkpoint.Checkpoint) {
	p.seq, p.timeline, p.time = ck.Seq, ck.Pos.Timeline, ck.Time
	p.lsn, p.commit, p.commitTime = ck.Pos.EndLSN, ck.LastTx.CommitLSN, ck.LastTx.CommitTime
	p.rows, p.letters, p.parked = ck.RowsTotal, ck.LettersTotal, len(ck.Parked)
}

// Letters is how many rows have become dead letters since the relay was
// initialised, how many keys are parked behind one, and when this process wrote
// the newest; known is whether a checkpoint was seen at all.
func (r *Recorder) Letters() (total uint64, parked int, newest time.Time, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at.letters, r.at.parked, r.at.letterAt, r.at.seq > 0
}
