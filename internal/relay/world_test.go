package relay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
)

// tx is a transaction of the model's Postgres. Without rows it is somebody
// else's, and the source makes an idle position of it.
type tx struct {
	xid         uint32
	commit, end pglogrepl.LSN
	rows        []uint64 // ordinals, growing
	after       time.Duration
	at          time.Time // when it committed
}

// ids are the names of a transaction's rows.
func (x tx) ids() []string {
	out := make([]string, len(x.rows))
	for i, ord := range x.rows {
		out[i] = fmt.Sprintf("%d/%d", x.xid, ord)
	}
	return out
}

// committed is a transaction of the model's Kafka, as a read_committed reader
// sees it.
type committed struct {
	ids     []string
	ck      checkpoint.Checkpoint
	records []*kgo.Record // letters, replays and marks among them
}

// world is both servers, and the only state that outlives a relay. It checks
// the promises that hold at every moment.
type world struct {
	mu      sync.Mutex
	rng     *rand.Rand
	parts   int // rows that the source hands over at most in one part
	history []tx
	chatty  bool // keepalives come at random

	slot    pglogrepl.LSN // confirmed_flush
	flushed pglogrepl.LSN // where the WAL ends; zero: behind the history
	holder  *fakeSource
	freed   chan struct{} // closed when the holder changes
	idleEnd pglogrepl.LSN // a keepalive that is sent after the history
	reply   bool          // and whether it asks for a reply

	epoch  int
	log    []committed
	late   *committed // EndTxn was sent, and arrives when it will
	wrong  []string   // broken promises
	caught chan struct{}
	calls  []string // what the relay called, for tests of the order
	grown  chan struct{}

	breaker breaker.Config // of every relay

	// at is asked before and after every step.
	at func(point string) verdict
	// errs are what the next calls of a step return; nil is one that works.
	errs map[string][]error
	// refuses is what a broker says to a record.
	refuses func(*kgo.Record) error
	most    int // letters of a key in one look
	// stall holds Commit up before anything happens.
	stall func(context.Context) error
}

// verdict is what a step is to suffer.
type verdict uint8

const (
	pass       verdict = iota
	fail               // an error; nothing was done
	panics             // whatever the relay does on the way out still counts
	kill               // a panic; nothing that this relay does counts any more
	steal              // Postgres gives the slot to somebody else, without telling
	lostAnswer         // commit only: applied, and answered with an error
	lostAsk            // commit only: not applied, and answered with an error
	lateAsk            // commit only: answered with an error, applied at the next fence if at all
	verdicts
)

func newWorld(history []tx) *world {
	return &world{
		rng: rand.New(rand.NewPCG(1, 1)), parts: 3, history: history, slot: 0x100,
		log:   []committed{{ck: checkpoint.Checkpoint{Seq: 1, SessionID: "init", Time: time.Now(), Pos: checkpoint.Position{Timeline: 1, EndLSN: 0x100}, Source: identity}}},
		freed: make(chan struct{}), caught: make(chan struct{}), grown: make(chan struct{}),
		at: func(string) verdict { return pass }, errs: map[string][]error{},
	}
}

var identity = checkpoint.Source{SystemID: "7", Database: "db", Slot: "slot", Publication: "pub", ClusterID: "c", TopicID: "t"}

func (w *world) violate(format string, args ...any) {
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func (w *world) call(format string, args ...any) {
	w.calls = append(w.calls, fmt.Sprintf(format, args...))
}

func (w *world) last() checkpoint.Checkpoint { return w.log[len(w.log)-1].ck }

func (w *world) end() pglogrepl.LSN {
	if len(w.history) == 0 {
		return 0x100
	}
	return w.history[len(w.history)-1].end
}

// read is what a read_committed reader sees of the checkpoint topic.
func (w *world) read() []committed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

// newest is the checkpoint that such a reader sees last.
func (w *world) newest() checkpoint.Checkpoint {
	log := w.read()
	return log[len(log)-1].ck
}

// published are the ids of all rows that a consumer sees, in order.
func (w *world) published() []string {
	var out []string
	for _, c := range w.read() {
		out = append(out, c.ids...)
	}
	return out
}

// confirmed is where the slot is.
func (w *world) confirmed() pglogrepl.LSN {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slot
}

// grow appends transactions while relays run.
func (w *world) grow(more ...tx) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history = append(w.history, more...)
	close(w.grown)
	w.grown = make(chan struct{})
}

// keepalive lets the source send an idle position behind the history.
func (w *world) keepalive(end pglogrepl.LSN, reply bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idleEnd, w.reply = end, reply
	close(w.grown)
	w.grown = make(chan struct{})
}

// process is one life of a relay: what it does after it was killed is nothing.
type process struct {
	*world
	dead    bool
	standby func()
}

// sufferLocked carries a verdict out that any step can have.
func (p *process) sufferLocked(point string) error {
	if errs := p.errs[point]; len(errs) > 0 {
		p.errs[point] = errs[1:]
		return errs[0]
	}
	v := p.at(point)
	p.carry(v, point)
	switch v {
	case fail, lostAnswer, lostAsk, lateAsk:
		return fault.New(fault.KafkaUnavailable, "injected at %s", point)
	}
	return nil
}

// carry is the part of a verdict that is no error.
func (p *process) carry(v verdict, point string) {
	switch v {
	case panics:
		panic("injected at " + point)
	case kill:
		p.dead = true
		if p.holder != nil && p.holder.p == p {
			p.release(p.holder)
		}
		panic("killed at " + point)
	case steal:
		p.steal()
	}
}

// steal ends the connection of whoever holds the slot, who notices later.
func (w *world) steal() {
	if w.holder != nil {
		time.AfterFunc(time.Second, w.holder.lose)
		w.release(w.holder)
	}
}

// release lets somebody else have the slot.
func (w *world) release(s *fakeSource) {
	if s != nil && w.holder == s {
		w.holder = nil
		close(w.freed)
		w.freed = make(chan struct{})
	}
}

// relay is a new process.
func (w *world) relay() *Relay {
	p := &process{world: w}
	r := &Relay{
		OpenSource: p.openSource,
		OpenSink:   p.openSink,
		NewTranslator: func(replication.State, sink.Session) (RowTranslator, error) {
			return plainTranslator{}, nil
		},
		Breaker:     breaker.New(w.breaker, breaker.Options{Name: "kafka", Probe: p.probe, Log: zerolog.Nop()}),
		Publication: "pub", Version: "v0",
		Limits:    Limits{Size: 2, Max: 5, MaxBytes: 1 << 20},
		Heartbeat: 50 * time.Millisecond, DrainTimeout: time.Second,
		Pause: func(int) time.Duration { return time.Millisecond },
		Log:   zerolog.Nop(),
	}
	p.standby = r.Standby
	return r
}

// live runs a relay and its breaker, as the program does: the end of one is
// the end of both.
func live(ctx context.Context, r *Relay) error {
	g, gctx := errgroup.WithContext(ctx)
	breaking, stop := context.WithCancel(gctx)
	g.Go(fault.Guard(func() error { return r.Breaker.Run(breaking) }))
	g.Go(func() error {
		defer stop()
		return r.Run(gctx)
	})
	return g.Wait()
}

// plainTranslator gives each row a record that carries its first value.
type plainTranslator struct{}

func (plainTranslator) Translate(_ context.Context, t *replication.Tx, dst []*kgo.Record) ([]*kgo.Record, uint64, error) {
	for i := range t.Rows {
		dst = append(dst, &kgo.Record{Topic: "events", Value: t.Rows[i].Values[0], Headers: []kgo.RecordHeader{{Key: outbox.HeaderCheckpoint}}})
	}
	return dst, 0, nil
}

// lsns gives transaction n a place: each takes 0x100 bytes of WAL, the commit
// record 0x10 of them.
func lsns(n int) (commit, end pglogrepl.LSN) {
	at := pglogrepl.LSN(0x100 * (n + 1))
	return at + 0x80, at + 0x90
}

// transactions makes a history of the given numbers of rows.
func transactions(rows ...int) []tx {
	out := make([]tx, len(rows))
	for i, n := range rows {
		out[i].xid = uint32(700 + i)
		out[i].commit, out[i].end = lsns(i)
		for ord := range n {
			out[i].rows = append(out[i].rows, uint64(ord+1))
		}
	}
	return out
}

// allIDs are the rows of a history in order.
func allIDs(history []tx) []string {
	var out []string
	for _, x := range history {
		out = append(out, x.ids()...)
	}
	return out
}

// start runs a relay; the returned function stops it and returns what Run did.
func (w *world) start(t *testing.T, r *Relay) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- live(ctx, r) }()
	t.Cleanup(cancel)
	return func() error {
		cancel()
		return <-done
	}
}

// called returns what was called since it was asked last.
func (w *world) called() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

func (w *world) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.wrong {
		t.Error(s)
	}
}

// settle lets time pass, and then all that this sets off happen.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// pause is a wait in virtual time.
func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
