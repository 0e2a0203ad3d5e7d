package replication

import (
	"context"
	"errors"
	"math"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/holdwall/outbox-relay/internal/crash"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// wake is how often the reader looks up from an idle connection: to send a
// confirmed position, to notice that it should stop. It bounds how far behind
// the checkpoint the slot is on a quiet system.
const wake = 50 * time.Millisecond

// State is what Postgres said when the slot was taken.
type State struct {
	SystemID    string
	Timeline    int32
	Switches    []Switch // how the present timeline came about, oldest first
	FlushLSN    pglogrepl.LSN
	Database    string
	Slot        Slot
	OptionsHash string
	Version     int // server_version_num
	Host        string
	Freed       time.Time // when a standby saw that the slot was free; zero: it never waited
}

// Source streams from one slot, for one session. Open takes the slot, Run holds
// it, and Resume, called once while Run runs, lets the reading begin: between
// them the caller may take its time to fence its predecessor and to read the
// checkpoint. Run, Resume, Next and Confirm may be called from different
// goroutines, Next from one at a time.
type Source struct {
	cfg     Config
	log     zerolog.Logger
	metrics *Metrics

	server *Server
	conn   *pgconn.PgConn
	pid    uint32 // of the walsender
	state  State
	tick   time.Duration

	resume  Resume
	resumed chan struct{} // closed by Resume: until then nothing is read
	queue   *queue
	taken   []*Tx // what Next has taken from the queue and not returned yet

	confirmed atomic.Uint64 // what Postgres may be told
	stopping  atomic.Bool   // the server refuses new connections
	orphaned  atomic.Bool   // the walsender has left: what is in the stream is only its reason
	heard     atomic.Int64  // last sign of life on either connection, in Unix nanoseconds

	ended  chan struct{} // closed when Run has ended, with endErr
	endErr error

	canary    *canary   // nil: none
	canaryOff bool      // it cannot be written in this session; watch's own
	canaryAt  time.Time // when it was last tended; watch's own

	recheckInterval, answerTimeout time.Duration
	patience                       time.Duration // how long there may be no sign of life

	sent        pglogrepl.LSN // last position told
	nextTick    time.Time
	lastReply   time.Time
	waitTold    time.Time // when it was last told that the server waits for a standby
	replyWanted bool
}

// Open finds the primary, probes it and takes the slot, waiting as a standby
// for as long as another session holds it. Nothing is read yet, but the slot
// is ours: only after this may a predecessor be fenced in Kafka, or a standby
// would kill a healthy leader.
//
// Errors carry a fault.Code. ctx bounds the waiting, not the life of the
// source.
func Open(ctx context.Context, cfg Config, log zerolog.Logger, metrics *Metrics) (*Source, error) {
	cfg = cfg.Defaults()
	srv, err := Connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &Source{
		cfg: cfg, log: log, metrics: metrics, server: srv,
		resumed: make(chan struct{}), ended: make(chan struct{}), queue: newQueue(cfg.QueueBytes),
		recheckInterval: defaultRecheck, answerTimeout: defaultAnswer,
	}
	if err := s.acquire(ctx); err != nil {
		s.Close()
		return nil, err
	}
	crash.Point(crash.SlotAcquired)
	return s, nil
}

// readBuffer is what one read of the socket may bring; pgproto3's own buffer
// takes 8 KiB.
const readBuffer = 128 << 10

// State returns what was found when the slot was taken.
func (s *Source) State() State { return s.state }

// Resume says what to drop, and lets the reading begin. It is called once.
func (s *Source) Resume(r Resume) {
	s.resume = r
	close(s.resumed)
}

// Next returns the next transaction, part of one, or idle position, in commit
// order. When the source has ended it returns the error that Run returns.
func (s *Source) Next(ctx context.Context) (*Tx, error) {
	if len(s.taken) == 0 {
		var err error
		if s.taken, err = s.queue.take(ctx); err != nil {
			return nil, err
		}
	}
	tx := s.taken[0]
	s.taken[0] = nil // the row memory is the caller's now
	s.taken = s.taken[1:]
	return tx, nil
}

// Confirm allows Postgres to forget everything below end. It never blocks and
// never goes back. The caller must have read the checkpoint that covers end
// back from Kafka.
func (s *Source) Confirm(end pglogrepl.LSN) {
	for {
		old := s.confirmed.Load()
		if uint64(end) <= old || s.confirmed.CompareAndSwap(old, uint64(end)) {
			crash.Point(crash.Confirmed)
			return
		}
	}
}

// Close lets go of the slot. It may be called more than once, but not while
// Run runs.
func (s *Source) Close() {
	if s.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.conn.Close(ctx)
		s.conn = nil
	}
	s.server.Close()
}

// Run holds the slot and reads the stream until ctx ends or the connection
// does, and closes both connections. Before it lets go it tells Postgres the
// confirmed position, so that the next session has less to skip.
func (s *Source) Run(ctx context.Context) error {
	s.metrics.streaming(true)
	defer s.metrics.streaming(false)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(fault.Guard(func() error { return s.read(gctx) }))
	g.Go(fault.Guard(func() error { return s.watch(gctx) }))
	err := g.Wait()
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case fault.Has(err, fault.PublicationSilent):
		err = s.silent(err)
	}
	s.queue.close(err)
	s.endErr = err
	close(s.ended)
	if s.conn != nil && !s.conn.IsClosed() {
		_ = s.status()
		crash.Point(crash.DrainDone)
	}
	s.Close()
	return err
}

// read is the one loop that touches the replication connection.
func (s *Source) read(ctx context.Context) error {
	var a *assembler // nil until Resume
	front, sock := s.conn.Frontend(), s.conn.Conn()
	var stoppingSince time.Time
	for {
		now := time.Now()
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := s.attend(now); err != nil {
			return err
		}
		switch {
		case !s.stopping.Load():
			stoppingSince = time.Time{}
		case stoppingSince.IsZero():
			stoppingSince = now
		case now.Sub(stoppingSince) > s.cfg.StopGrace:
			return fault.New(fault.PostgresStopping, "left %s, which wants to stop", s.server.describe())
		}
		if a == nil {
			select {
			case <-s.resumed:
				a = newAssembler(s.cfg.Schema, s.cfg.Table, s.resume, s.metrics, func(tx *Tx) { s.queue.put(tx) })
				a.canary = s.canary
			default:
				if s.orphaned.Load() {
					a = newAssembler(s.cfg.Schema, s.cfg.Table, Resume{Floor: math.MaxUint64}, nil, func(*Tx) {})
				}
			}
		}
		if full := !s.queue.hasRoom(); a == nil || full {
			err := s.pause(ctx)
			if full {
				s.metrics.waited(time.Since(now))
			}
			if err != nil {
				return err
			}
			continue
		}
		if err := sock.SetReadDeadline(now.Add(wake)); err != nil {
			return classify(err, fault.Unclassified, "set deadline")
		}
		n, err := s.drain(front, a)
		if n > 0 {
			s.heard.Store(now.UnixNano())
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return classify(err, fault.PublicationHole, "read the stream")
		}
	}
}

// drain reads messages until the read deadline passes, the queue is full or
// the connection fails, and returns how many it read. The deadline is set once
// for many messages; pgproto3 keeps a message that it has read in part, so a
// deadline loses nothing.
func (s *Source) drain(front *pgproto3.Frontend, a *assembler) (n int, err error) {
	bytes := 0
	defer func() { s.metrics.received(bytes) }()
	for ; s.queue.hasRoom(); n++ {
		msg, err := front.Receive()
		if err != nil {
			var netErr net.Error
			if errors.As(err, &netErr) && netErr.Timeout() {
				return n, os.ErrDeadlineExceeded
			}
			return n, err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			bytes += len(msg.Data)
			if err := s.copyData(msg.Data, a); err != nil {
				return n, err
			}
			if s.replyWanted {
				return n, nil
			}
		case *pgproto3.ErrorResponse:
			return n, pgconn.ErrorResponseToPgError(msg)
		case *pgproto3.NoticeResponse:
			if err := s.notice(msg); err != nil {
				return n, err
			}
		case *pgproto3.CopyDone, *pgproto3.CommandComplete, *pgproto3.ReadyForQuery:
			return n, fault.New(fault.PostgresStopping, "%s ended the stream", s.server.describe())
		}
	}
	return n, nil
}

func (s *Source) copyData(data []byte, a *assembler) error {
	if len(data) == 0 {
		return fault.New(fault.WALDecode, "empty replication message")
	}
	switch data[0] {
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return fault.Wrap(err, fault.WALDecode, "read replication message")
		}
		return a.message(x.WALStart, x.WALData)
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return fault.Wrap(err, fault.WALDecode, "read keepalive")
		}
		s.replyWanted = s.replyWanted || k.ReplyRequested
		return a.idle(k.ServerWALEnd, k.ReplyRequested)
	}
	return fault.New(fault.WALDecode, "replication message of type %q", data[0])
}

// pause waits for a reason to read, no longer than until the next look-up.
func (s *Source) pause(ctx context.Context) error {
	t := time.NewTimer(wake)
	defer t.Stop()
	resumed := s.resumed
	select {
	case <-resumed:
		resumed = nil // closed for good: it is no reason any more
	default:
	}
	select {
	case <-resumed:
	case <-s.queue.room:
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
