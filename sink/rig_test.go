package sink_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/sink"
)

const (
	events = "events" // two partitions
	ckpt   = "ckpt"
)

// rig is a broker with the topics of a relay.
type rig struct {
	cluster *kfake.Cluster
	opts    []kgo.Opt
	cfg     sink.Config
	metrics *sink.Metrics
}

func newRig(t *testing.T, opts ...kfake.Opt) *rig {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(2, events)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	r := &rig{
		cluster: c, opts: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)},
		cfg: sink.Config{
			Name: "orders", Version: "v0", CheckpointTopic: ckpt,
			TransactionTimeout: 20 * time.Second, ReadBackTimeout: 10 * time.Second, MaxRecords: 1000,
		},
	}
	r.topic(t, ckpt, 1, map[string]string{"cleanup.policy": "compact"})
	return r
}

func (r *rig) topic(t *testing.T, name string, partitions int32, configs map[string]string) {
	t.Helper()
	if err := r.cluster.CreateTopic(name, partitions, configs); err != nil {
		t.Fatal(err)
	}
}

// open opens a producer, which is closed at the end of the test if not before.
func (r *rig) open(t *testing.T, opts ...kgo.Opt) (*opened, sink.Session) {
	t.Helper()
	p, s, err := sink.Open(t.Context(), r.cfg, append(r.opts, opts...), zerolog.Nop(), r.metrics)
	if err != nil {
		t.Fatal(err)
	}
	o := &opened{Producer: p}
	t.Cleanup(o.Close)
	return o, s
}

// opened closes once.
type opened struct {
	*sink.Producer
	closed atomic.Bool
}

func (o *opened) Close() {
	if o.closed.CompareAndSwap(false, true) {
		o.Producer.Close()
	}
}

// follow is a checkpoint that follows what the session found.
func follow(s sink.Session, rows uint64) checkpoint.Checkpoint {
	c := checkpoint.Checkpoint{
		SessionID: s.ID, SessionNo: s.No, Rows: rows, Pos: checkpoint.Position{Timeline: 1, EndLSN: 0x100},
		Source: checkpoint.Source{SystemID: "7", Database: "db", Slot: "slot", ClusterID: s.ClusterID, TopicID: s.TopicID},
	}
	if s.State.Last != nil {
		c.Seq = s.State.Last.Seq
		c.Pos.EndLSN = s.State.Last.Pos.EndLSN + 0x100
	}
	c.Seq++
	return c
}

// event is a record for a partition of the events topic.
func event(value string, partition int32) *kgo.Record {
	r := &kgo.Record{Topic: events, Value: []byte(value)}
	sink.SetPartition(r, partition)
	return r
}

// write is one transaction up to its commit.
func (o *opened) write(ctx context.Context, t *testing.T, c checkpoint.Checkpoint, records ...*kgo.Record) error {
	t.Helper()
	if err := o.Begin(); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		o.Add(r)
	}
	return o.Commit(ctx, c)
}

// committed are the values of a topic that a read_committed reader sees. It
// fails if a transaction is left open, which would hide what follows.
func (r *rig) committed(t *testing.T, topic string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(append(r.opts, kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	stable, err := adm.ListCommittedOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if s, _ := stable.Lookup(topic, o.Partition); s.Offset != o.Offset {
			t.Errorf("a transaction is open in partition %d of %s: %d is stable of %d", o.Partition, topic, s.Offset, o.Offset)
		} else if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	var values []string
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if !rec.Attrs.IsControl() {
				values = append(values, string(rec.Value))
			}
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
		})
	}
	return values
}

// commitLine is a wire that spoils the next request to commit, once armed.
type commitLine struct {
	answer, request atomic.Bool // what is to be lost
	lost            atomic.Int32
}

// option makes a client use the wire.
func (l *commitLine) option() kgo.Opt {
	return kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, host)
		if err != nil {
			return nil, err
		}
		return &spoiledConn{Conn: c, line: l}, nil
	})
}

type spoiledConn struct {
	net.Conn
	line *commitLine
	cut  atomic.Bool // at the next answer
}

// breaks is how long a wire takes to break: longer than the client may try
// again, as in life.
const breaks = 20 * time.Millisecond

// endTxn is the api key, which follows the length of a frame.
const endTxn = 26

func (c *spoiledConn) Write(b []byte) (int, error) {
	if len(b) > 6 && b[4] == 0 && b[5] == endTxn {
		if c.line.request.CompareAndSwap(true, false) {
			c.line.lost.Add(1)
			time.AfterFunc(breaks, func() { c.Close() })
			return len(b), nil
		}
		c.cut.Store(c.line.answer.CompareAndSwap(true, false))
	}
	return c.Conn.Write(b)
}

func (c *spoiledConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.cut.Load() {
		time.Sleep(breaks) // the broker has done it
		c.line.lost.Add(1)
		c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}
