package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
)

// Sampler looks at slot and checkpoint, the slot first, again and again. Both
// ends may go away and come back; what could not be looked at is no sample.
type Sampler struct {
	DatabaseURL string
	Slot        string
	Kafka       []kgo.Opt // how to reach the cluster
	Topic       string    // of checkpoints
	Name        string    // of the relay
	Interval    time.Duration

	samples []Sample
	taken   atomic.Int64
	missed  int
}

const (
	defaultInterval = 50 * time.Millisecond
	// glance bounds one look. A frozen server must not freeze the sampler
	// for longer than the faults last.
	glance = 2 * time.Second
)

// Run samples until the context ends, and then returns nil. The error is that
// of a setting.
func (s *Sampler) Run(ctx context.Context) error {
	if s.Interval == 0 {
		s.Interval = defaultInterval
	}
	config, err := pgx.ParseConfig(s.DatabaseURL)
	if err != nil {
		return fmt.Errorf("sample the slot: %w", err)
	}
	reader, err := newTip(s.Kafka, s.Topic, s.Name)
	if err != nil {
		return err
	}
	defer reader.client.Close()
	slot := &slotEye{config: config, slot: s.Slot}
	defer slot.close()
	tick := time.NewTicker(s.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		sample, err := s.look(ctx, slot, reader)
		switch {
		case err == nil:
			s.samples = append(s.samples, sample)
			s.taken.Add(1)
		case ctx.Err() == nil:
			s.missed++
		}
	}
}

// Count returns how many samples were taken so far; it may be asked while Run
// goes on.
func (s *Sampler) Count() int64 { return s.taken.Load() }

// Samples returns what was seen, after Run has returned.
func (s *Sampler) Samples() []Sample { return s.samples }

// Missed counts the looks at which an end was away.
func (s *Sampler) Missed() int { return s.missed }

func (s *Sampler) look(ctx context.Context, slot *slotEye, tip *tip) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	confirmed, err := slot.confirmed(ctx)
	if err != nil {
		return Sample{}, err
	}
	sample := Sample{At: time.Now(), Epoch: slot.epoch, Confirmed: confirmed}
	if err := tip.advance(ctx, &sample); err != nil {
		return Sample{}, err
	}
	sample.Seq, sample.End = tip.last.Seq, tip.last.Pos.EndLSN
	return sample, nil
}

// slotEye reads the slot over a connection that it opens again when needed.
// A new connection is a new epoch: only then may the server have crashed.
type slotEye struct {
	config *pgx.ConnConfig
	slot   string
	conn   *pgx.Conn
	epoch  int
}

var errNoSlot = errors.New("the slot has no position")

func (e *slotEye) confirmed(ctx context.Context) (pglogrepl.LSN, error) {
	if e.conn == nil || e.conn.IsClosed() {
		conn, err := pgx.ConnectConfig(ctx, e.config)
		if err != nil {
			return 0, err
		}
		e.conn = conn
		e.epoch++
	}
	var text *string
	err := e.conn.QueryRow(ctx, `SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1`, e.slot).Scan(&text)
	if err != nil {
		return 0, err
	}
	if text == nil {
		return 0, errNoSlot
	}
	return pglogrepl.ParseLSN(*text)
}

func (e *slotEye) close() {
	if e.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), glance)
		defer cancel()
		_ = e.conn.Close(ctx) // the server may be gone, which is no concern of ours
	}
}

// tip follows the checkpoint topic, read_committed.
type tip struct {
	client *kgo.Client
	topic  string
	name   string
	next   int64
	last   checkpoint.Checkpoint
}

func newTip(opts []kgo.Opt, topic, name string) (*tip, error) {
	client, err := kgo.NewClient(append(slices.Clone(opts),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.FetchMaxWait(500*time.Millisecond))...)
	if err != nil {
		return nil, fmt.Errorf("open reader of %s: %w", topic, err)
	}
	return &tip{client: client, topic: topic, name: name}, nil
}

// advance reads to the stable end of the topic as it is now.
func (t *tip) advance(ctx context.Context, sample *Sample) error {
	end, err := boundsOf(ctx, t.client, t.topic)
	if err != nil {
		return err
	}
	for _, b := range end {
		sample.LSO, sample.HW = b.lso, b.hw
	}
	for t.next < sample.LSO {
		fetches := t.client.PollFetches(ctx)
		if ctx.Err() != nil && fetches.NumRecords() == 0 {
			return context.Cause(ctx)
		}
		var bad error
		fetches.EachRecord(func(rec *kgo.Record) {
			t.next = rec.Offset + 1
			if kind, owner := checkpoint.KindOf(rec.Key); rec.Attrs.IsControl() || kind != checkpoint.Lane || owner != t.name {
				return
			}
			c, err := checkpoint.Decode(rec)
			if err != nil {
				bad = err
				return
			}
			t.last = c
		})
		if bad != nil {
			return bad
		}
	}
	return nil
}
