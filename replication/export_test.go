package replication

import (
	"bytes"
	"context"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// What the tests outside the package need of its inside.

const (
	PartRows  = partRows
	PartBytes = partBytes
)

type Assembler = assembler

func NewAssembler(schema, table string, r Resume, emit func(*Tx)) *Assembler {
	return newAssembler(schema, table, r, nil, emit)
}

func (a *assembler) Message(at pglogrepl.LSN, data []byte) error { return a.message(at, data) }

func (a *assembler) Keepalive(end pglogrepl.LSN, replyAsked bool) error {
	return a.idle(end, replyAsked)
}

type Queue = queue

func NewQueue(limit int) *Queue { return newQueue(limit) }

func (q *queue) Put(tx *Tx) bool                         { return q.put(tx) }
func (q *queue) HasRoom() bool                           { return q.hasRoom() }
func (q *queue) Close(err error)                         { q.close(err) }
func (q *queue) Take(ctx context.Context) ([]*Tx, error) { return q.take(ctx) }
func (q *queue) Room() <-chan struct{}                   { return q.room }

var (
	ClassifyAs      = classify
	ClassifyConnect = classifyConnect
	Hosts           = hosts
	ParseSlot       = parseSlot
)

// CheckSlot judges a slot as the server with this database would.
func CheckSlot(s Slot, cfg Config, database string) error {
	srv := &Server{cfg: cfg, host: &pgconn.Config{Database: database}}
	return srv.fit(s)
}

// DrainBytes reads wire as if the walsender had sent it.
func DrainBytes(wire []byte, cfg Config, emit func(*Tx)) error {
	s := &Source{
		cfg: cfg, log: zerolog.Nop(), queue: newQueue(1 << 20),
		server: &Server{cfg: cfg, host: &pgconn.Config{}},
	}
	front := pgproto3.NewFrontend(bytes.NewReader(wire), nil)
	front.SetMaxBodyLen(cfg.MaxRowBytes)
	_, err := s.drain(front, newAssembler(cfg.Schema, cfg.Table, Resume{}, nil, emit))
	return classify(err, fault.PublicationHole, "read the stream")
}

// Watchful shortens how long a silent network is borne.
func (s *Source) Watchful(recheck, answer, patience time.Duration) {
	s.recheckInterval, s.answerTimeout, s.patience = recheck, answer, patience
}

// Agreed is how long Postgres waits for a sign of life.
func (s *Source) Agreed() time.Duration { return 3 * s.tick }

// Gulping wraps a dial function.
var Gulping = gulping

// Canary is what an assembler waits for.
type Canary = canary

// Await has the assembler wait for a canary.
func (a *assembler) Await(id string, behind pglogrepl.LSN) *Canary {
	a.canary = &canary{}
	a.canary.expect(id)
	a.canary.committed(behind)
	return a.canary
}

// Seen tells whether it has come.
func (c *canary) Seen() bool { _, seen := c.waiting(); return seen }
