package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/holdwall/outbox-relay/outbox"
)

const (
	writers       = 4  // sessions writing at the same time, each with keys of its own
	keysPerWriter = 16 // order is per key, so each key has one writer
	mostRows      = 20 // per ordinary transaction
	rollbackShare = 0.05
	poisonShare   = 0.01
	appendChunk   = 500
)

// payload is what the demo's rows carry. The sequence is what the order of a
// key is judged by.
type payload struct {
	Order  string  `json:"order"`
	Seq    uint64  `json:"seq"`
	Item   string  `json:"item"`
	Amount float64 `json:"amount"`
}

// generator writes outbox rows the way an application does: through
// outbox.Append, in transactions of its own.
type generator struct {
	url    string
	table  *outbox.Writer
	ledger *ledger
	rate   int
}

func newGenerator(url, table string, rate int, l *ledger) (*generator, error) {
	w, err := outbox.NewWriter(table, outbox.DefaultColumns())
	if err != nil {
		return nil, err
	}
	return &generator{url: url, table: w, ledger: l, rate: rate}, nil
}

// run writes at the configured rate until the context ends. It returns an
// error only when the database stays away.
func (g *generator) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range writers {
		group.Go(func() error {
			s := g.session(fmt.Sprintf("order-%d", i), keysPerWriter)
			defer s.close()
			return s.loop(ctx, time.Second*writers/time.Duration(g.rate))
		})
	}
	return group.Wait()
}

// bulk commits one large transaction on a key of its own, the kind that takes
// the relay long enough to be killed in the middle.
func (g *generator) bulk(ctx context.Context, key string, rows int) error {
	s := g.session(key, 1)
	s.poison = 0 // so that the number of records is the number of rows
	defer s.close()
	return s.transaction(ctx, rows, true)
}

// session is one connection with the keys that only it writes.
type session struct {
	g      *generator
	name   string
	conn   *pgx.Conn
	seqs   []uint64
	poison float64
	rnd    *rand.Rand
}

func (g *generator) session(name string, keys int) *session {
	return &session{
		g: g, name: name, seqs: make([]uint64, keys), poison: poisonShare,
		rnd: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	}
}

func (s *session) close() {
	if s.conn != nil {
		_ = s.conn.Close(context.Background()) // nothing was left open on it
		s.conn = nil
	}
}

// loop keeps to a timetable rather than pausing between transactions, so that
// slow commits do not lower the rate.
func (s *session) loop(ctx context.Context, perRow time.Duration) error {
	const patience = 30 * time.Second
	next, good := time.Now(), time.Now()
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		rows := 1 + s.rnd.IntN(mostRows)
		err := s.transaction(ctx, rows, s.rnd.Float64() >= rollbackShare)
		switch {
		case err == nil:
			good = time.Now()
			next = next.Add(time.Duration(rows) * perRow)
		case ctx.Err() != nil:
			return nil
		case time.Since(good) > patience:
			return fmt.Errorf("write to the outbox: %w", err)
		default:
			s.close()
			next = time.Now().Add(200 * time.Millisecond)
		}
		wait.Reset(max(time.Until(next), 0))
	}
}

// transaction writes rows and commits them or takes them back. Once begun it
// is finished: a context that ends in the middle would leave a COMMIT in
// doubt. Large transactions look at the context between chunks and roll back.
func (s *session) transaction(ctx context.Context, n int, commit bool) error {
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if s.conn == nil {
		conn, err := pgx.Connect(work, s.g.url)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		s.conn = conn
	}
	tx, err := s.conn.Begin(work)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback(work) //nolint:errcheck // does nothing after a commit
	rows, records := s.plan(n)
	for at := 0; at < n; at += appendChunk {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.g.table.Append(work, tx, records[at:min(at+appendChunk, n)]...); err != nil {
			return fmt.Errorf("append: %w", err)
		}
	}
	s.g.ledger.announce(rows, commit, time.Now())
	if !commit {
		return tx.Rollback(work)
	}
	if err := tx.Commit(work); err != nil {
		s.g.ledger.settle(rows, doubtful)
		return fmt.Errorf("commit: %w", err)
	}
	s.g.ledger.settle(rows, committed)
	return nil
}

func (s *session) plan(n int) ([]row, []outbox.Record) {
	rows, records := make([]row, n), make([]outbox.Record, n)
	for i := range rows {
		k := s.rnd.IntN(len(s.seqs))
		s.seqs[k]++
		key := s.name
		if len(s.seqs) > 1 {
			key = fmt.Sprintf("%s-%d", s.name, k)
		}
		rows[i] = row{id: uuid.Must(uuid.NewV7()), key: key, seq: s.seqs[k]}
		body, err := json.Marshal(payload{
			Order: key, Seq: s.seqs[k], Item: fmt.Sprintf("article %04d", s.rnd.IntN(10000)),
			Amount: float64(s.rnd.IntN(100000)) / 100,
		})
		if err != nil {
			panic(err) // a struct of plain values always encodes
		}
		records[i] = outbox.Record{
			ID: rows[i].id.String(), AggregateType: "order", AggregateID: key, Type: "OrderLineAdded", Payload: body,
		}
		if s.rnd.Float64() < s.poison {
			rows[i].poison = true
			spoil(&records[i], s.rnd)
		}
	}
	return rows, records
}

// spoil makes a row that the table takes and Kafka does not.
func spoil(r *outbox.Record, rnd *rand.Rand) {
	if rnd.IntN(2) == 0 {
		r.Topic = ".." // passes the table's check, is no name of a topic
		return
	}
	r.Partition = outbox.PartitionOf(1_000_000)
}
