package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/dlq"
	"github.com/holdwall/outbox-relay/internal/breaker"
	"github.com/holdwall/outbox-relay/internal/provision"
	"github.com/holdwall/outbox-relay/internal/recovery"
	"github.com/holdwall/outbox-relay/internal/relay"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/sink"
	"github.com/holdwall/outbox-relay/test/harness"
)

// world is a real database, a broker in this process and a relay between them.
type world struct {
	t       *testing.T
	db      *harness.Database
	conn    *pgx.Conn
	cluster *kfake.Cluster
	opts    []kgo.Opt
	cfg     recovery.Config
	rows    relay.TranslatorConfig
	park    bool
	limits  relay.Limits
	log     zerolog.Logger
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: harness.Postgres(t).NewDatabase(t), limits: relay.Limits{Size: 100, Max: 1000, MaxBytes: 1 << 20}, log: zerolog.Nop()}
	w.conn = w.db.Connect(t)
	var err error
	if w.cluster, err = kfake.NewCluster(kfake.NumBrokers(1)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cluster.Close)
	w.opts = []kgo.Opt{kgo.SeedBrokers(w.cluster.ListenAddrs()...)}
	conn, err := pgconn.ParseConfig(w.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	router := sink.RouterConfig{EventsTopic: "events", DeniedTopics: []string{"ckpt", "dlq", "dlq.state"}}
	w.cfg = recovery.Config{
		Source: replication.Config{
			Conn: conn, Slot: w.db.Slot("relay"), Publication: "outbox_pub", Schema: "outbox", Table: "events", MaxRowBytes: 1 << 24,
		},
		Table: outbox.Table{Schema: "outbox", Name: "events"}, Columns: outbox.DefaultColumns(),
		Name: "orders", Version: "v0", Router: router, Letters: "dlq", Checkpoint: "ckpt",
		Kafka: func(string) ([]kgo.Opt, error) { return w.opts, nil }, Stall: 10 * time.Second, TempDir: t.TempDir(), Log: zerolog.Nop(),
	}
	w.rows = relay.TranslatorConfig{Name: "orders", Version: "v0", Columns: w.cfg.Columns, LetterTopic: "dlq", Router: router}
	return w
}

func (w *world) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	w.t.Cleanup(cancel)
	return ctx
}

// topics are those that init creates.
func (w *world) init() {
	w.t.Helper()
	plan := provision.Plan{
		Source: w.cfg.Source, Table: w.cfg.Table, Columns: w.cfg.Columns, Sink: w.sink(), Kafka: w.opts, Log: zerolog.Nop(),
		Topics: []provision.Topic{provision.CheckpointTopic("ckpt"), {Name: "events", Partitions: 3}},
	}
	for _, t := range dlq.Topics("dlq", 1<<20) {
		plan.Topics = append(plan.Topics, provision.Topic{Name: t.Name, Partitions: t.Partitions, Configs: t.Configs})
	}
	if _, err := plan.Run(w.within(30 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) sink() sink.Config {
	return sink.Config{
		Name: "orders", Version: "v0", CheckpointTopic: "ckpt",
		TransactionTimeout: 10 * time.Second, ReadBackTimeout: 5 * time.Second, MaxRecords: 10_000,
	}
}

// relay is a relay that streams, or, with a recovery, one that recovers.
func (w *world) relay(r *recovery.Recovery) *relay.Relay {
	var alive func(context.Context) error
	rows := w.rows
	rows.Recovered = r != nil
	shelf := &dlq.Shelf{Topic: "dlq", Relay: "orders", Forgive: !w.park, Options: func() ([]kgo.Opt, error) { return w.opts, nil }}
	m := relay.NewMetrics(nil, "orders")
	out := &relay.Relay{
		Breaker: breaker.New(breaker.Config{Failures: 5, Successes: 1, Reset: time.Second}, breaker.Options{Name: "kafka", Probe: func(context.Context) error { return nil }}),
		Letters: &relay.Letters{Topic: "dlq", Park: w.park, Write: relay.LetterWriter(rows), Look: shelf.Look},
		Probe: func(ctx context.Context, sess sink.Session, records []*kgo.Record) (error, error) {
			return sink.Probe(ctx, w.sink(), w.opts, sess.Catalog, records, w.log)
		},
		OpenSource: func(ctx context.Context) (relay.Source, error) {
			open := func() (*replication.Source, error) { return replication.Open(ctx, w.cfg.Source, w.log, nil) }
			if r != nil {
				open = func() (*replication.Source, error) { return r.Source(ctx, w.log, nil) }
			}
			src, err := open()
			if err != nil {
				return nil, err
			}
			alive = src.Alive
			return src, nil
		},
		OpenSink: func(ctx context.Context) (relay.Sink, sink.Session, error) {
			c := w.sink()
			c.Alive, c.Tolerant = alive, r != nil
			return sinkOf(sink.Open(ctx, c, w.opts, w.log, nil))
		},
		NewTranslator: func(st replication.State, sess sink.Session) (relay.RowTranslator, error) {
			return relay.NewTranslator(rows, st, sess, m)
		},
		Publication: "outbox_pub", Version: "v0", Limits: w.limits, Heartbeat: 100 * time.Millisecond, DrainTimeout: 2 * time.Second,
		Pause: func(int) time.Duration { return 10 * time.Millisecond }, Log: w.log, Metrics: m,
	}
	if r != nil {
		out.Refill = r
	}
	return out
}

func sinkOf(p *sink.Producer, s sink.Session, err error) (relay.Sink, sink.Session, error) {
	if err != nil {
		return nil, s, err
	}
	return p, s, nil
}

// serve streams until the checkpoint has passed what is committed now.
func (w *world) serve() {
	w.t.Helper()
	target := w.lsn("SELECT pg_current_wal_lsn()")
	if err := w.stream(func(c checkpoint.Checkpoint) bool { return c.Pos.EndLSN >= target && !c.Pos.Cut() }); err != nil {
		w.t.Fatal(err)
	}
}

var errTimeout = errors.New("the relay did not come so far")

func (w *world) stream(until func(checkpoint.Checkpoint) bool) error {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.within(30 * time.Second))
	defer stop()
	reached := false
	r := w.relay(nil)
	r.OnCommit = func(c relay.Commit) {
		if until(c.Checkpoint) {
			reached = true
			stop()
		}
	}
	err := r.Run(ctx)
	if err == nil && !reached {
		err = errTimeout
	}
	return err
}

// recover runs one recovery to its end.
func (w *world) recover() *recovery.Recovery {
	w.t.Helper()
	r, err := w.tryRecover(w.within(60 * time.Second))
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) tryRecover(ctx context.Context) (*recovery.Recovery, error) {
	w.t.Helper()
	r, err := recovery.Open(ctx, w.cfg, true)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.Sound() {
		return r, nil
	}
	if err := r.Accepted(w.cfg.Accept); err != nil {
		return nil, err
	}
	return r, w.relay(r).Run(ctx)
}

func (w *world) exec(sql ...string) {
	w.t.Helper()
	w.db.Exec(w.t, sql...)
}

// insert writes rows e<from> to e<to> of five keys, one transaction each.
func (w *world) insert(from, to int) {
	w.t.Helper()
	for i := from; i <= to; i++ {
		w.exec(fmt.Sprintf(`INSERT INTO outbox.events (id, aggregatetype, aggregateid, type, payload)
		    VALUES ('%s', 'order', 'k%d', 'Created', '{"n": %d}')`, id(i), i%5, i))
	}
}

func id(i int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", i) }

func (w *world) lsn(sql string) pglogrepl.LSN {
	w.t.Helper()
	var text string
	if err := w.conn.QueryRow(w.t.Context(), "SELECT ("+sql+")::text").Scan(&text); err != nil {
		w.t.Fatal(err)
	}
	lsn, err := pglogrepl.ParseLSN(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return lsn
}

func (w *world) dropSlot() {
	w.t.Helper()
	// A walsender whose client has gone may take a moment to notice.
	w.exec(`DO $$ BEGIN
	    PERFORM pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '` + w.cfg.Source.Slot + `' AND active;
	    PERFORM pg_drop_replication_slot('` + w.cfg.Source.Slot + `'); END $$`)
}

// read returns what a read_committed consumer is shown of a topic.
func (w *world) read(topic string) []*kgo.Record {
	w.t.Helper()
	cl, err := kgo.NewClient(w.opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(w.t.Context(), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	left, from := map[int32]int64{}, map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil && o.Offset > 0 {
			left[o.Partition], from[o.Partition] = o.Offset, kgo.NewOffset().AtStart()
		}
	})
	if len(left) == 0 {
		return nil
	}
	reader, err := kgo.NewClient(append(slices.Clone(w.opts), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer reader.Close()
	var all []*kgo.Record
	ctx := w.within(20 * time.Second)
	for len(left) > 0 && ctx.Err() == nil {
		for _, rec := range reader.PollFetches(ctx).Records() {
			if !rec.Attrs.IsControl() {
				all = append(all, rec)
			}
			if rec.Offset >= left[rec.Partition]-1 {
				delete(left, rec.Partition)
			}
		}
	}
	return all
}

func header(rec *kgo.Record, name string) string {
	for _, h := range rec.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// once fails unless each of the rows 1 to n is there once, as event or letter.
func (w *world) once(n int) {
	w.t.Helper()
	seen := map[string]int{}
	for _, topic := range []string{"events", "dlq"} {
		for _, rec := range w.read(topic) {
			if header(rec, "outbox.dlq.replay_of") == "" {
				seen[header(rec, "id")]++
			}
		}
	}
	for i := 1; i <= n; i++ {
		if seen[id(i)] != 1 {
			w.t.Errorf("row %d is there %d times", i, seen[id(i)])
		}
		delete(seen, id(i))
	}
	if len(seen) > 0 {
		w.t.Errorf("others: %v", slices.Sorted(maps.Keys(seen)))
	}
}

// inOrder fails unless the rows of each key are in the order of their numbers,
// and positions grow in each partition.
func (w *world) inOrder() {
	w.t.Helper()
	last := map[string]string{}
	place := map[int32]dlq.Place{}
	for _, rec := range w.read("events") {
		if prev := last[string(rec.Key)]; header(rec, "id") <= prev {
			w.t.Errorf("key %s: %s comes after %s", rec.Key, header(rec, "id"), prev)
		}
		last[string(rec.Key)] = header(rec, "id")
		at, ok := dlq.PlaceOf(rec.Headers)
		if !ok || at.Compare(place[rec.Partition]) <= 0 {
			w.t.Errorf("partition %d: %v comes after %v", rec.Partition, at, place[rec.Partition])
		}
		place[rec.Partition] = at
	}
}

func (w *world) state() checkpoint.State {
	w.t.Helper()
	st, err := (&checkpoint.Log{Topic: "ckpt", Name: "orders", Opts: w.opts}).Peek(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// audits are the audit records, by state.
func (w *world) audits() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	for _, rec := range w.read("ckpt") {
		if strings.Contains(string(rec.Key), "/audit/") {
			all[strings.Split(strings.SplitN(string(rec.Value), `"state":"`, 2)[1], `"`)[0]] = string(rec.Value)
		}
	}
	return all
}

func (w *world) deleteTopic(name string) {
	w.t.Helper()
	w.admin(func(adm *kadm.Client) error {
		_, err := adm.DeleteTopic(w.t.Context(), name)
		return err
	})
}

// trim takes every record of a topic away.
func (w *world) trim(name string) {
	w.t.Helper()
	w.admin(func(adm *kadm.Client) error {
		ends, err := adm.ListEndOffsets(w.t.Context(), name)
		if err != nil {
			return err
		}
		done, err := adm.DeleteRecords(w.t.Context(), ends.Offsets())
		if err != nil {
			return err
		}
		return done.Error()
	})
}

func (w *world) admin(do func(*kadm.Client) error) {
	w.t.Helper()
	cl, err := kgo.NewClient(w.opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	if err := do(kadm.NewClient(cl)); err != nil {
		w.t.Fatal(err)
	}
}

// accept repeats what the plan asks for.
func (w *world) accept(t *testing.T) {
	t.Helper()
	r, err := recovery.Open(w.within(30*time.Second), recovery.Config{
		Source: w.cfg.Source, Table: w.cfg.Table, Columns: w.cfg.Columns, Name: w.cfg.Name, Checkpoint: w.cfg.Checkpoint, Kafka: w.cfg.Kafka,
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.cfg.Accept = nil
	for _, n := range r.Needs {
		w.cfg.Accept = append(w.cfg.Accept, n.Words)
	}
	if len(w.cfg.Accept) == 0 {
		t.Errorf("nothing has to be decided: %v", r.Findings)
	}
}

func (w *world) preview() *recovery.Recovery {
	w.t.Helper()
	r, err := recovery.Open(w.within(30*time.Second), w.cfg, false)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Close)
	if err := r.Preview(w.within(30 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	return r
}

// replay sends the open letters to a topic.
func (w *world) replay(topic string) {
	w.t.Helper()
	w.admin(func(adm *kadm.Client) error {
		_, err := adm.CreateTopic(w.t.Context(), 1, 1, nil, topic)
		return err
	})
	options := func() ([]kgo.Opt, error) { return w.opts, nil }
	r := &dlq.Replayer{
		Name: "orders", By: "test", View: &dlq.View{Topic: "dlq", Options: options}, TransactionTimeout: 10 * time.Second,
		Partitioner: sink.Partitioner(), Place: sink.SetPartition, Denied: []string{"dlq", "dlq.state", "ckpt"}, Log: w.log,
	}
	ctx := w.within(20 * time.Second)
	var refs []dlq.Ref
	err := r.View.Letters(ctx, func(i *dlq.Item) error { refs = append(refs, dlq.RefOf(i)); return nil }, func(_ dlq.Spot, err error) { w.t.Error(err) })
	if err == nil {
		err = r.Run(ctx, dlq.Job{Action: dlq.Replayed, To: topic, Report: func(res dlq.Result) {
			if res.Outcome != dlq.OutcomeDone {
				w.t.Errorf("%+v", res)
			}
		}}, refs)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// forge writes a checkpoint that differs from the newest.
func (w *world) forge(change func(*checkpoint.Checkpoint)) {
	w.t.Helper()
	ctx := w.within(20 * time.Second)
	snk, sess, err := sink.Open(ctx, w.sink(), w.opts, w.log, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer snk.Close()
	c := *sess.State.Last
	c.Seq, c.SessionID, c.SessionNo, c.Rows = c.Seq+1, sess.ID, sess.No, 0
	change(&c)
	if err := errors.Join(snk.Begin(), snk.Commit(ctx, c), snk.ReadBack(ctx, c)); err != nil {
		w.t.Fatal(err)
	}
}

// acceptGap gives up the rows before the slot.
func (w *world) acceptGap() {
	w.t.Helper()
	slot := w.lsn("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '" + w.cfg.Source.Slot + "'")
	r := w.relay(nil)
	r.AcceptGap = &relay.Gap{Checkpoint: w.state().Last.Pos.EndLSN, Slot: slot}
	ctx, stop := context.WithCancel(w.within(20 * time.Second))
	defer stop()
	r.OnCommit = func(c relay.Commit) { stop() }
	if err := r.Run(ctx); err != nil {
		w.t.Fatal(err)
	}
}
