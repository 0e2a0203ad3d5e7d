package dlq_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/sink"
)

const (
	events  = "events" // two partitions
	letters = "events.dlq"
)

// rig is a broker with a topic of events and one of letters.
type rig struct {
	cluster *kfake.Cluster
	at      int // letters written
}

func newRig(t *testing.T) *rig {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, events))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	r := &rig{cluster: c}
	for _, top := range dlq.Topics(letters, 1<<20) {
		r.topic(t, top.Name, top.Partitions, top.Configs)
	}
	return r
}

// opts are of one client or of several that are made one after another: making
// a client writes to what the compression option holds (kgo 1.22.2).
func (r *rig) opts(more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{kgo.SeedBrokers(r.cluster.ListenAddrs()...), kgo.ProducerBatchCompression(kgo.NoCompression())}, more...)
}

func (r *rig) topic(t *testing.T, name string, partitions int32, configs map[string]string) {
	t.Helper()
	at := map[string]*string{}
	for k, v := range configs {
		at[k] = kadm.StringPtr(v)
	}
	cl, err := kgo.NewClient(r.opts()...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, at, name); err != nil {
		t.Fatal(err)
	}
}

var written = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// letter is a letter of an event of the relay; spoil changes it.
func (r *rig) letter(id, key string, spoil ...func(*dlq.Letter)) dlq.Letter {
	r.at++
	l := dlq.Letter{
		Key: []byte(key), Value: []byte(`{"id":"` + id + `"}`), Topic: events, Timestamp: written,
		Headers: []kgo.RecordHeader{
			{Key: "id", Value: []byte(id)},
			{Key: "type", Value: []byte("created")},
			{Key: "aggregatetype", Value: []byte("order")},
			{Key: "aggregateid", Value: []byte(key)},
			{Key: "content-type", Value: []byte("application/json")},
			{Key: "tenant", Value: []byte("acme")},
			{Key: "outbox.lsn", Value: fmt.Appendf(nil, "0/%08X", 0x100+r.at)},
			{Key: "outbox.tli", Value: []byte("1")},
			{Key: "outbox.ord", Value: []byte("1")},
		},
		Reason: dlq.TooLarge, Stage: dlq.KafkaProduce, Component: "sink", Code: "OBX-2002", Message: "too large",
		Attempts: 1, FirstAt: written, At: written.Add(time.Duration(r.at) * time.Second), Relay: "orders", RelayVersion: "v0",
	}
	for _, f := range spoil {
		f(&l)
	}
	return l
}

// write puts letters into their topic, as a relay would.
func (r *rig) write(t *testing.T, all ...dlq.Letter) {
	t.Helper()
	recs := make([]*kgo.Record, len(all))
	for i := range all {
		recs[i] = all[i].Record(letters, 0)
	}
	r.produce(t, recs...)
}

func (r *rig) produce(t *testing.T, recs ...*kgo.Record) {
	t.Helper()
	cl, err := kgo.NewClient(r.opts(kgo.TransactionalID("relay-" + t.Name()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
}

// many writes n letters with ids from 1, over five keys.
func (r *rig) many(t *testing.T, n int) {
	t.Helper()
	all := make([]dlq.Letter, n)
	for i := range all {
		all[i] = r.letter(fmt.Sprint(i+1), fmt.Sprintf("key-%d", i%5))
	}
	r.write(t, all...)
}

// tool is a process that replays.
func (r *rig) tool(opts ...kgo.Opt) *dlq.Replayer {
	return &dlq.Replayer{
		Name: "orders", By: "test", View: &dlq.View{Topic: letters, Options: func() ([]kgo.Opt, error) { return r.opts(opts...), nil }},
		TransactionTimeout: 10 * time.Second, Partitioner: sink.Partitioner(), Place: sink.SetPartition,
		Denied: []string{letters, dlq.StateTopic(letters), "checkpoint"}, Log: zerolog.Nop(),
	}
}

// open are the ids of open letters, in the order of their rows, and their refs.
func open(t *testing.T, v *dlq.View, f dlq.Filter) (ids []string, refs []dlq.Ref) {
	t.Helper()
	f.States = []dlq.State{dlq.StateOpen}
	err := v.Letters(t.Context(), func(i *dlq.Item) error {
		if f.Match(i) {
			ids, refs = append(ids, i.ID()), append(refs, dlq.RefOf(i))
		}
		return nil
	}, func(at dlq.Spot, err error) { t.Errorf("letter at %v: %v", at, err) })
	if err != nil {
		t.Fatal(err)
	}
	dlq.SortRefs(refs)
	return ids, refs
}

// replay is what one process does with all open letters.
func (r *rig) replay(t *testing.T, tool *dlq.Replayer, job dlq.Job) (map[dlq.Outcome][]string, error) {
	t.Helper()
	_, refs := open(t, tool.View, dlq.Filter{})
	got := map[dlq.Outcome][]string{}
	if job.Action == "" {
		job.Action = dlq.Replayed
	}
	report := job.Report
	job.Report = func(res dlq.Result) {
		what := res.ID
		if res.Err != nil {
			what += " " + res.Err.Code.Name
		}
		got[res.Outcome] = append(got[res.Outcome], what)
		if report != nil {
			report(res)
		}
	}
	return got, tool.Run(t.Context(), job, refs)
}

// committed are the records of a topic that a read_committed reader sees, by
// partition and offset. It fails if a transaction is left open.
func (r *rig) committed(t *testing.T, topic string) []*kgo.Record {
	t.Helper()
	return r.read(t, topic, true)
}

// read is committed, or while something is going on what is so far.
func (r *rig) read(t *testing.T, topic string, settled bool) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(r.opts(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
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
		s, _ := stable.Lookup(topic, o.Partition)
		if settled && s.Offset != o.Offset {
			t.Errorf("a transaction is open in partition %d of %s: %d is stable of %d", o.Partition, topic, s.Offset, o.Offset)
		}
		if s.Offset > 0 {
			left[o.Partition] = s.Offset
		}
	})
	var all []*kgo.Record
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if !rec.Attrs.IsControl() {
				all = append(all, rec)
			}
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
		})
	}
	slices.SortFunc(all, func(a, b *kgo.Record) int {
		if a.Partition != b.Partition {
			return int(a.Partition - b.Partition)
		}
		return int(a.Offset - b.Offset)
	})
	return all
}

// once requires that the events topic holds each of the ids once, and that the
// numbers of a key grow.
func (r *rig) once(t *testing.T, n int) {
	t.Helper()
	seen, last := map[string]int{}, map[string]int{}
	for _, rec := range r.committed(t, events) {
		id := header(rec, outbox.HeaderID)
		seen[id]++
		var number int
		if _, err := fmt.Sscan(id, &number); err != nil {
			t.Fatal(err)
		}
		if number <= last[string(rec.Key)] {
			t.Errorf("key %s has %d behind %d", rec.Key, number, last[string(rec.Key)])
		}
		last[string(rec.Key)] = number
	}
	for i := range n {
		if id := fmt.Sprint(i + 1); seen[id] != 1 {
			t.Errorf("letter %s was replayed %d times", id, seen[id])
		}
	}
	if len(seen) != n {
		t.Errorf("%d letters were replayed, not %d", len(seen), n)
	}
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// wire spoils the n-th request to end a transaction.
type wire struct {
	n       int32
	answer  bool   // its answer is lost, else the request itself
	before  func() // called before it goes out; nothing is lost then
	seen    atomic.Int32
	spoiled atomic.Bool
}

func (w *wire) option() kgo.Opt {
	return kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, host)
		if err != nil {
			return nil, err
		}
		return &wireConn{Conn: c, wire: w}, nil
	})
}

type wireConn struct {
	net.Conn
	wire *wire
	cut  atomic.Bool
}

// breaks is longer than the client may try again.
const breaks = 20 * time.Millisecond

func (c *wireConn) Write(b []byte) (int, error) {
	const endTxn = 26 // the api key, behind the length of a frame
	if len(b) > 6 && b[4] == 0 && b[5] == endTxn && c.wire.seen.Add(1) == c.wire.n {
		c.wire.spoiled.Store(true)
		switch {
		case c.wire.before != nil:
			c.wire.before()
		case c.wire.answer:
			c.cut.Store(true)
		default:
			time.AfterFunc(breaks, func() { c.Close() })
			return len(b), nil
		}
	}
	return c.Conn.Write(b)
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.cut.Load() {
		time.Sleep(breaks) // the broker has done it
		c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

func isCode(err error, code *fault.Code) bool { return fault.Has(err, code) }

func number(n int) string { return fmt.Sprint(n) }
