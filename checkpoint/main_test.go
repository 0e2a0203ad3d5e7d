package checkpoint_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/holdwall/outbox-relay/checkpoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const topic = "outbox.orders.checkpoint"

// desk is a broker with one checkpoint topic, and a writer of transactions.
type desk struct {
	t       testing.TB
	cluster *kfake.Cluster
	log     checkpoint.Log
	writers int
	writer  *kgo.Client
}

func newDesk(t testing.TB) *desk {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	d := &desk{t: t, cluster: c, log: checkpoint.Log{Topic: topic, Name: "orders", Opts: []kgo.Opt{
		kgo.SeedBrokers(c.ListenAddrs()...), kgo.FetchMaxWait(100 * time.Millisecond),
	}}}
	d.writer = d.newWriter()
	return d
}

// newWriter has a transactional id of its own: it fences nobody.
func (d *desk) newWriter() *kgo.Client {
	d.t.Helper()
	d.writers++
	cl, err := kgo.NewClient(append(d.log.Opts[:len(d.log.Opts):len(d.log.Opts)],
		kgo.TransactionalID(fmt.Sprint("writer-", d.writers)), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(cl.Close)
	return cl
}

// begin produces records in a transaction and leaves it open.
func (d *desk) begin(cl *kgo.Client, recs ...*kgo.Record) {
	d.t.Helper()
	if err := cl.BeginTransaction(); err != nil {
		d.t.Fatal(err)
	}
	if err := cl.ProduceSync(d.t.Context(), recs...).FirstErr(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) end(cl *kgo.Client, how kgo.TransactionEndTry) {
	d.t.Helper()
	if err := cl.EndTransaction(d.t.Context(), how); err != nil {
		d.t.Fatal(err)
	}
}

// commit writes one transaction and returns the offset of its last record.
func (d *desk) commit(recs ...*kgo.Record) int64 {
	d.t.Helper()
	d.begin(d.writer, recs...)
	d.end(d.writer, kgo.TryCommit)
	return recs[len(recs)-1].Offset
}

func (d *desk) abort(recs ...*kgo.Record) {
	d.t.Helper()
	d.begin(d.writer, recs...)
	d.end(d.writer, kgo.TryAbort)
}

// plain writes outside any transaction, as no relay does.
func (d *desk) plain(recs ...*kgo.Record) {
	d.t.Helper()
	cl, err := kgo.NewClient(append(d.log.Opts[:len(d.log.Opts):len(d.log.Opts)], kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		d.t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(d.t.Context(), recs...).FirstErr(); err != nil {
		d.t.Fatal(err)
	}
}

// at returns a checkpoint that differs by its number only.
func at(session string, no, seq uint64) checkpoint.Checkpoint {
	c := full()
	c.SessionID, c.SessionNo, c.Seq = session, no, seq
	c.Pos = checkpoint.Position{Timeline: 1, CommitLSN: 0x1000 + lsn(seq)*0x10, EndLSN: 0x1008 + lsn(seq)*0x10}
	return c
}

func (d *desk) record(c checkpoint.Checkpoint) *kgo.Record { return d.recordOf("orders", c) }

func (d *desk) recordOf(name string, c checkpoint.Checkpoint) *kgo.Record {
	d.t.Helper()
	r, err := c.Record(topic, name)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

func (d *desk) barrier(session string) *kgo.Record {
	d.t.Helper()
	r, err := checkpoint.Barrier{SessionID: session, Time: noon}.Record(topic, "orders")
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// load reads up to the barrier and hands back the tail.
func (d *desk) load(session string, barrier int64) (checkpoint.State, *checkpoint.Tail) {
	d.t.Helper()
	st, tail, err := d.log.Load(within(d.t, 20*time.Second), session, barrier)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(tail.Close)
	return st, tail
}
