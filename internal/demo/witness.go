package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/outbox"
)

// reader consumes topics from their beginning and remembers how far it got.
// Control records are kept: with them the position after the last marker is
// the end of the log, and "everything was read" is a comparison.
type reader struct {
	client *kgo.Client
	take   func(*kgo.Record, time.Time)

	mu      sync.Mutex
	next    map[string]map[int32]int64
	changed chan struct{} // closed and replaced whenever next moves
}

func openReader(opts []kgo.Opt, level kgo.IsolationLevel, take func(*kgo.Record, time.Time), topics ...string) (*reader, error) {
	client, err := kgo.NewClient(append(opts[:len(opts):len(opts)],
		kgo.ClientID("outbox-relay-demo"),
		kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(level),
		kgo.KeepControlRecords(),
		kgo.FetchMaxWait(500*time.Millisecond), // an idle fetch must not hold up the end
	)...)
	if err != nil {
		return nil, fmt.Errorf("open consumer: %w", err)
	}
	return &reader{client: client, take: take, next: map[string]map[int32]int64{}, changed: make(chan struct{})}, nil
}

// run reads until the context ends. Errors of partitions are the client's to
// retry, save for the loss of data.
func (r *reader) run(ctx context.Context) error {
	for {
		fetches := r.client.PollFetches(ctx)
		now := time.Now()
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return nil
		}
		for _, e := range fetches.Errors() {
			var lost *kgo.ErrDataLoss
			if errors.As(e.Err, &lost) {
				return fmt.Errorf("consume %s: %w", e.Topic, e.Err)
			}
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if !rec.Attrs.IsControl() {
				r.take(rec, now)
			}
		})
		r.advance(fetches)
	}
}

func (r *reader) advance(fetches kgo.Fetches) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		if r.next[p.Topic] == nil {
			r.next[p.Topic] = map[int32]int64{}
		}
		r.next[p.Topic][p.Partition] = p.Records[len(p.Records)-1].Offset + 1
	})
	close(r.changed)
	r.changed = make(chan struct{})
}

// awaitEnd blocks until everything that is in the topics now has been read.
func (r *reader) awaitEnd(ctx context.Context, topics ...string) error {
	ends, err := kadm.NewClient(r.client).ListEndOffsets(ctx, topics...)
	if err != nil {
		return fmt.Errorf("list end offsets: %w", err)
	}
	if err := ends.Error(); err != nil {
		return fmt.Errorf("list end offsets: %w", err)
	}
	for {
		r.mu.Lock()
		behind := ""
		ends.Each(func(o kadm.ListedOffset) {
			if at := r.next[o.Topic][o.Partition]; at < o.Offset {
				behind = fmt.Sprintf("%s/%d at %d of %d", o.Topic, o.Partition, at, o.Offset)
			}
		})
		changed := r.changed
		r.mu.Unlock()
		if behind == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("read to the end, %s: %w", behind, ctx.Err())
		}
	}
}

// witness is the pair of consumers that the verdict rests on: one sees what
// an application sees, the other also what was aborted.
type witness struct {
	names    names
	ledger   *ledger
	visible  *reader // read_committed: events, dead letters, checkpoints
	physical *reader // read_uncommitted: events

	mu    sync.Mutex
	point checkpoint.Checkpoint
	left  checkpoint.Checkpoint // last one of the session before that of point
	moved chan struct{}         // closed and replaced whenever point moves
	seen  map[string]*sighting  // bulk transactions by key
}

// sighting is what was seen of one bulk transaction.
type sighting struct {
	rows             int // of the transaction
	written, visible int
	begun            chan struct{} // closed at its first record, committed or not
	whole            chan struct{} // closed when all rows are visible
}

func openWitness(opts []kgo.Opt, n names, l *ledger) (*witness, error) {
	w := &witness{names: n, ledger: l, moved: make(chan struct{}), seen: map[string]*sighting{}}
	var err error
	if w.visible, err = openReader(opts, kgo.ReadCommitted(), w.takeVisible, n.events, n.dlq, n.checkpoint); err != nil {
		return nil, err
	}
	if w.physical, err = openReader(opts, kgo.ReadUncommitted(), w.takePhysical, n.events); err != nil {
		w.visible.client.Close()
		return nil, err
	}
	return w, nil
}

func (w *witness) close() {
	w.visible.client.Close()
	w.physical.client.Close()
}

func (w *witness) takeVisible(rec *kgo.Record, now time.Time) {
	if rec.Topic == w.names.checkpoint {
		if kind, name := checkpoint.KindOf(rec.Key); kind != checkpoint.Lane || name != w.names.relay {
			return
		}
		if c, err := checkpoint.Decode(rec); err == nil {
			w.mu.Lock()
			if c.SessionID != w.point.SessionID {
				w.left = w.point
			}
			w.point = c
			close(w.moved)
			w.moved = make(chan struct{})
			w.mu.Unlock()
		}
		return
	}
	id := identify(rec)
	if rec.Topic == w.names.dlq {
		w.ledger.sawLetter(id, now)
		return
	}
	var p payload
	_ = json.Unmarshal(rec.Value, &p) // a foreign payload has sequence 0, which is out of order
	w.ledger.sawRecord(id, p.Order, p.Seq, now)
	w.sight(rec, func(s *sighting) {
		if s.visible++; s.visible == s.rows {
			close(s.whole)
		}
	})
}

func (w *witness) takePhysical(rec *kgo.Record, _ time.Time) {
	w.ledger.sawPhysical()
	w.sight(rec, func(s *sighting) {
		if s.written++; s.written == 1 {
			close(s.begun)
		}
	})
}

func (w *witness) sight(rec *kgo.Record, note func(*sighting)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.seen[string(rec.Key)]; s != nil {
		note(s)
	}
}

// watch follows one key, whose transaction must not have committed yet.
func (w *witness) watch(key string, rows int) *sighting {
	s := &sighting{rows: rows, begun: make(chan struct{}), whole: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[key] = s
	return s
}

func (w *witness) sighted(s *sighting) (written, visible int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.written, s.visible
}

func (w *witness) checkpoint() checkpoint.Checkpoint {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.point
}

// awaitSession blocks until a checkpoint of another session than the given
// one is visible: the successor has committed. It returns the last checkpoint
// of the predecessor, which is where the successor resumed.
func (w *witness) awaitSession(ctx context.Context, not string) (checkpoint.Checkpoint, error) {
	for {
		w.mu.Lock()
		is, left, moved := w.point.SessionID, w.left, w.moved
		w.mu.Unlock()
		if is != not {
			return left, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return left, fmt.Errorf("wait for a checkpoint of the restarted relay: %w", ctx.Err())
		}
	}
}

// identify reads the id header. A record without one gets the zero id, which
// the ledger does not know.
func identify(rec *kgo.Record) uuid.UUID {
	for _, h := range rec.Headers {
		if h.Key == outbox.HeaderID {
			id, err := uuid.ParseBytes(h.Value)
			if err != nil {
				return uuid.Nil
			}
			return id
		}
	}
	return uuid.Nil
}
