package verify_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/verify"
	"github.com/holdwall/outbox-relay/outbox"
	"github.com/holdwall/outbox-relay/test/harness"
)

const (
	ckptTopic = "outbox.r.checkpoint"
	relayName = "r"
)

func cluster(t *testing.T) []kgo.Opt {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, events), kfake.SeedTopics(1, others, letters, state, ckptTopic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
}

// producer writes Kafka transactions as a relay does.
type producer struct {
	t  *testing.T
	cl *kgo.Client
}

func newProducer(t *testing.T, opts []kgo.Opt, id string) *producer {
	t.Helper()
	cl, err := kgo.NewClient(append(slices.Clone(opts), kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &producer{t, cl}
}

func (p *producer) open(records ...*kgo.Record) {
	p.t.Helper()
	if err := p.cl.BeginTransaction(); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cl.ProduceSync(p.t.Context(), records...).FirstErr(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *producer) end(how kgo.TransactionEndTry) {
	p.t.Helper()
	if err := p.cl.EndTransaction(p.t.Context(), how); err != nil {
		p.t.Fatal(err)
	}
}

// write is one Kafka transaction.
func (p *producer) write(how kgo.TransactionEndTry, records ...*kgo.Record) {
	p.t.Helper()
	p.open(records...)
	p.end(how)
}

// event is a row and the record made of it.
type event struct {
	n    int // of all rows
	key  string
	seq  int // of the key
	lsn  pglogrepl.LSN
	ord  int // and index in the transaction
	ckpt uint64
}

func (e event) id() string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", e.n) }

func (e event) payload() []byte {
	return []byte(fmt.Sprintf(`{"key": %q, "key_seq": %d}`, e.key, e.seq))
}

func (e event) record(topic string) *kgo.Record {
	return &kgo.Record{Topic: topic, Key: []byte(e.key), Value: e.payload(), Headers: []kgo.RecordHeader{
		{Key: outbox.HeaderID, Value: []byte(e.id())},
		{Key: outbox.HeaderLSN, Value: fmt.Appendf(nil, "%X/%08X", uint32(e.lsn>>32), uint32(e.lsn))},
		{Key: outbox.HeaderSeq, Value: []byte(strconv.Itoa(e.ord))},
		{Key: outbox.HeaderTimeline, Value: []byte("1")},
		{Key: outbox.HeaderOrdinal, Value: []byte(strconv.Itoa(e.ord))},
		{Key: outbox.HeaderCheckpoint, Value: []byte(strconv.FormatUint(e.ckpt, 10))},
	}}
}

// replay is the record once more, after it was a letter.
func (e event) replay(topic string) *kgo.Record {
	r := e.record(topic)
	r.Headers = append(r.Headers[:len(r.Headers)-1], // a tool has no checkpoint
		kgo.RecordHeader{Key: outbox.HeaderReplayOf, Value: []byte(e.id())},
		kgo.RecordHeader{Key: outbox.HeaderReplayed, Value: []byte("2026-01-01T00:00:00Z")})
	return r
}

// mark says what became of the first letter.
func (e event) mark(action, topic string) *kgo.Record {
	return &kgo.Record{Topic: state, Key: []byte(e.id()), Value: fmt.Appendf(nil,
		`{"v":1,"id":%q,"action":%q,"at":"2026-01-01T00:00:00Z","by":"me","letter":{"topic":%q,"partition":0,"offset":0},"topic":%q}`,
		e.id(), action, letters, topic)}
}

func point(seq uint64, end pglogrepl.LSN, rows, total uint64) checkpoint.Checkpoint {
	return checkpoint.Checkpoint{
		Seq: seq, SessionID: "one", SessionNo: 1, Rows: rows, RowsTotal: total,
		Pos:    checkpoint.Position{Timeline: 1, CommitLSN: end - 8, EndLSN: end},
		Source: checkpoint.Source{SystemID: "1", Database: "d", Slot: "s"}, Time: time.Unix(1e9, 0),
	}
}

func pointRecord(t *testing.T, c checkpoint.Checkpoint) *kgo.Record {
	t.Helper()
	rec, err := c.Record(ckptTopic, relayName)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// rowsOf is the oracle of the events, each a transaction of its own.
func rowsOf(all ...event) verify.Oracle {
	var o verify.Oracle
	for _, e := range all {
		o.Rows = append(o.Rows, verify.Row{
			ID: verify.IDOf(e.id()), Hash: verify.HashOf(e.payload()), Key: verify.NameOf(e.key), KeySeq: uint32(e.seq),
			Tx: uint32(len(o.Txs)), Ord: uint32(e.ord), Partition: -1, Marked: true,
		})
		o.Txs = append(o.Txs, verify.Tx{LSN: e.lsn, EndLSN: e.lsn + 8, First: uint32(len(o.Rows) - 1), Timeline: 1})
	}
	return o
}

// TestCollectedEvidencePasses goes once through all collectors of Kafka with a
// run that aborts, repeats, sends a letter and leaves the payload out of it.
func TestCollectedEvidencePasses(t *testing.T) {
	opts := cluster(t)
	watch := &verify.Watch{Kafka: opts, Topics: []string{events, others, letters}}
	stop := running(t, watch.Run)

	a := event{n: 1, key: "a", seq: 1, lsn: 0x1F0, ord: 1, ckpt: 2}
	b := event{n: 2, key: "b", seq: 1, lsn: 0x2F0, ord: 1, ckpt: 2}
	c := event{n: 3, key: "a", seq: 2, lsn: 0x3F0, ord: 1, ckpt: 3}
	d := event{n: 4, key: "c", seq: 1, lsn: 0x4F0, ord: 1, ckpt: 3}
	first := point(1, 0x100, 0, 0)
	second, third := point(2, 0x2F8, 2, 2), point(3, 0x4F8, 2, 4)

	p := newProducer(t, opts, "outbox-r-0")
	p.write(kgo.TryCommit, pointRecord(t, first))
	p.write(kgo.TryAbort, a.record(events), b.record(events), pointRecord(t, second))
	p.write(kgo.TryCommit, a.record(events), b.record(events), pointRecord(t, second))
	letter := c.record(letters)
	sum := sha256.Sum256(letter.Value)
	letter.Value = nil
	letter.Headers = append(letter.Headers, kgo.RecordHeader{Key: "outbox.dlq.payload_sha256", Value: []byte(hex.EncodeToString(sum[:]))})
	p.write(kgo.TryCommit, letter, d.record(events), pointRecord(t, third))
	tool := newProducer(t, opts, "outbox-r-tools")
	tool.write(kgo.TryAbort, c.replay(events), c.mark("replayed", events))
	tool.write(kgo.TryCommit, c.replay(events), c.mark("replayed", events))

	waitFor(t, "the live reader", func() bool { return watch.Count() >= 5 })
	stop()

	ev := verify.Evidence{Oracle: rowsOf(a, b, c, d), Sightings: watch.Sightings(), Rules: verify.Rules{Topic: events, Quiet: true}}
	ev.Oracle.Rows[2].Poison = true
	var err error
	if ev.Logs, err = verify.ReadLogs(t.Context(), opts, verify.Topics{Events: []string{events, others, "no.such.topic"}, Letters: []string{letters}}); err != nil {
		t.Fatal(err)
	}
	if ev.Checkpoints, err = verify.ReadCheckpoints(t.Context(), opts, ckptTopic, relayName); err != nil {
		t.Fatal(err)
	}
	if ev.State, err = verify.ReadState(t.Context(), opts, state); err != nil {
		t.Fatal(err)
	}
	report := verify.Check(ev)
	if err := report.Err(); err != nil {
		t.Fatal(report.String())
	}
	if got := report.Unchecked(); !slices.Equal(got, []verify.Property{verify.P10}) {
		t.Errorf("unchecked: %v", got)
	}
	want := verify.Counts{Transactions: 4, Rows: 4, Published: 3, Letters: 1, Replayed: 1, Marks: 1, Aborted: 3, Checkpoints: 3, Sessions: 1, Sighted: 5}
	if diff := cmp.Diff(want, report.Counts); diff != "" {
		t.Error(diff)
	}

	// The same evidence, and the faults that it has room for.
	for _, m := range verify.Mutations() {
		broken, ok := verify.Mutate(ev, m, newRand(1))
		if !ok {
			continue
		}
		if r := verify.Check(broken); r.Of(m.Breaks).Violations == 0 {
			t.Errorf("%s: %s did not notice", m.Name, m.Breaks)
		}
	}
}

// TestStateTopic: what cannot be read of it is told, and what is gone is known
// to be gone.
func TestStateTopic(t *testing.T) {
	opts := cluster(t)
	a := event{n: 1, key: "a", seq: 1, lsn: 0x1F0, ord: 1, ckpt: 2}
	p := newProducer(t, opts, "tools")
	foreign, newer, misfiled := a.mark("purged", ""), a.mark("purged", ""), a.mark("purged", "")
	foreign.Value, newer.Value, misfiled.Key = []byte("{"), []byte(`{"v":2}`), []byte("another")
	p.write(kgo.TryCommit, foreign, newer, misfiled, a.mark("purged", ""))
	p.open(a.mark("replayed", events))
	s, err := verify.ReadState(t.Context(), opts, state)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range s.Marks {
		got = append(got, fmt.Sprintf("%d %s %s %t fault=%t", m.Offset, m.Action, m.Fate, m.Committed, m.Fault != ""))
	}
	want := []string{
		"0  commit true fault=true", "1  commit true fault=true", "2  commit true fault=true",
		"3 purged commit true fault=false", "5 replayed open false fault=false",
	}
	if diff := cmp.Diff(want, got); diff != "" || s.Compacted {
		t.Errorf("compacted %t, marks (-want +got):\n%s", s.Compacted, diff)
	}
	report := verify.Check(verify.Evidence{State: s})
	// Three that cannot be read, and one of a letter that is nowhere.
	if n := report.Of(verify.P14).Violations; n != 4 {
		t.Errorf("%d violations, want 4\n%s", n, report.String())
	}
	p.end(kgo.TryAbort)

	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var cut kadm.Offsets
	cut.AddOffset(state, 0, 3, -1)
	if _, err := kadm.NewClient(cl).DeleteRecords(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	if s, err = verify.ReadState(t.Context(), opts, state); err != nil || !s.Compacted || len(s.Marks) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err = verify.ReadState(t.Context(), opts, "no.such.topic"); err != nil || s.HW != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestOpenTransaction: what is not decided is neither shown nor aborted, and a
// run that has come to rest must not leave it.
func TestOpenTransaction(t *testing.T) {
	opts := cluster(t)
	a := event{n: 1, key: "a", seq: 1, lsn: 0x1F0, ord: 1, ckpt: 2}
	p := newProducer(t, opts, "outbox-r-0")
	p.write(kgo.TryCommit, pointRecord(t, point(1, 0x100, 0, 0)))
	p.open(a.record(events), pointRecord(t, point(2, 0x1F8, 1, 1)))

	var ev verify.Evidence
	var err error
	if ev.Logs, err = verify.ReadLogs(t.Context(), opts, verify.Topics{Events: []string{events}}); err != nil {
		t.Fatal(err)
	}
	if ev.Checkpoints, err = verify.ReadCheckpoints(t.Context(), opts, ckptTopic, relayName); err != nil {
		t.Fatal(err)
	}
	if n := len(ev.Checkpoints); n != 2 || ev.Checkpoints[1].Committed || ev.Checkpoints[1].Fate != verify.Open {
		t.Errorf("checkpoints %+v", ev.Checkpoints)
	}
	report := verify.Check(ev)
	if err := report.Err(); err != nil || report.Counts.Aborted != 1 {
		t.Errorf("%v\n%s", err, report.String())
	}
	ev.Rules.Quiet = true
	ev.Oracle = rowsOf(a)
	report = verify.Check(ev)
	for _, p := range []verify.Property{verify.P1, verify.P12} {
		if report.Of(p).Violations != 1 {
			t.Errorf("%+v", report.Of(p))
		}
	}
	p.end(kgo.TryAbort)
}

// TestForeignRecords: what somebody else wrote into the topics is noticed.
func TestForeignRecords(t *testing.T) {
	opts := cluster(t)
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	err = cl.ProduceSync(t.Context(),
		&kgo.Record{Topic: events, Key: []byte("x"), Value: []byte("y")},
		&kgo.Record{Topic: ckptTopic, Key: []byte("outbox-r/lane/0"), Value: []byte("{")},
		&kgo.Record{Topic: ckptTopic, Key: []byte("outbox-other/lane/0"), Value: []byte("{")},
	).FirstErr()
	if err != nil {
		t.Fatal(err)
	}
	var ev verify.Evidence
	if ev.Logs, err = verify.ReadLogs(t.Context(), opts, verify.Topics{Events: []string{events}}); err != nil {
		t.Fatal(err)
	}
	if ev.Checkpoints, err = verify.ReadCheckpoints(t.Context(), opts, ckptTopic, relayName); err != nil {
		t.Fatal(err)
	}
	report := verify.Check(ev)
	for _, p := range []verify.Property{verify.P3, verify.P7, verify.P8, verify.P9} {
		if report.Of(p).Violations != 1 {
			t.Errorf("%+v", report.Of(p))
		}
	}
	malformed := event{n: 1, key: "a", seq: 1, lsn: 1, ord: 1, ckpt: 2}.record(events)
	malformed.Headers[1].Value = []byte("not an lsn")
	if err := cl.ProduceSync(t.Context(), malformed).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if _, err := verify.ReadLogs(t.Context(), opts, verify.Topics{Events: []string{events}}); err == nil {
		t.Error("a malformed header was read")
	}
}

// TestCompactedCheckpoints: checkpoints that the log no longer holds are no
// fault, and neither are the groups that they numbered.
func TestCompactedCheckpoints(t *testing.T) {
	opts := cluster(t)
	p := newProducer(t, opts, "outbox-r-0")
	var rows []event
	total := uint64(0)
	p.write(kgo.TryCommit, pointRecord(t, point(1, 0x100, 0, 0)))
	for seq := uint64(2); seq < 8; seq++ {
		total++
		e := event{n: int(seq), key: "a", seq: int(total), lsn: pglogrepl.LSN(seq * 0x100), ord: 1, ckpt: seq}
		rows = append(rows, e)
		p.write(kgo.TryCommit, e.record(events), pointRecord(t, point(seq, e.lsn+8, 1, total)))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var cut kadm.Offsets
	cut.AddOffset(ckptTopic, 0, 8, -1) // the first four, with their markers
	if _, err := kadm.NewClient(cl).DeleteRecords(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	ev := verify.Evidence{Oracle: rowsOf(rows...)}
	if ev.Logs, err = verify.ReadLogs(t.Context(), opts, verify.Topics{Events: []string{events}}); err != nil {
		t.Fatal(err)
	}
	if ev.Checkpoints, err = verify.ReadCheckpoints(t.Context(), opts, ckptTopic, relayName); err != nil {
		t.Fatal(err)
	}
	if n := len(ev.Checkpoints); n != 3 || !ev.Checkpoints[0].Hole || ev.Checkpoints[1].Hole {
		t.Errorf("checkpoints %+v", ev.Checkpoints)
	}
	report := verify.Check(ev)
	if err := report.Err(); err != nil {
		t.Error(report.String())
	}
}

// TestSampler samples a real slot against checkpoints, through a crash of
// Postgres.
func TestSampler(t *testing.T) {
	pg := harness.NewPostgres(t, harness.PostgresConfig{})
	db := pg.NewDatabase(t)
	slot := db.Slot("relay")
	conn := db.Connect(t)
	var lsn pglogrepl.LSN
	if err := conn.QueryRow(t.Context(), `SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')`, slot).Scan(&lsn); err != nil {
		t.Fatal(err)
	}
	opts := cluster(t)
	p := newProducer(t, opts, "outbox-r-0")
	p.write(kgo.TryCommit, pointRecord(t, point(1, lsn, 0, 0)))

	s := &verify.Sampler{DatabaseURL: db.URL(), Slot: slot, Kafka: opts, Topic: ckptTopic, Name: relayName, Interval: time.Millisecond}
	stop := running(t, s.Run)
	var moved pglogrepl.LSN
	advance := `SELECT end_lsn::text FROM pg_replication_slot_advance($1, pg_current_wal_lsn())`
	for seq := uint64(2); seq < 12; seq++ {
		var end pglogrepl.LSN
		if err := conn.QueryRow(t.Context(), `SELECT pg_logical_emit_message(true, 'test', 'x')::text`).Scan(&end); err != nil {
			t.Fatal(err)
		}
		// First the checkpoint, then the slot, as a relay does.
		p.write(kgo.TryCommit, pointRecord(t, point(seq, end+1<<20, 0, 0)))
		if err := conn.QueryRow(t.Context(), advance, slot).Scan(&moved); err != nil {
			t.Fatal(err)
		}
	}
	if moved <= lsn {
		t.Fatalf("the slot stayed at %s", moved)
	}
	more(t, s)
	if err := pg.RestartImmediate(t.Context()); err != nil {
		t.Fatal(err)
	}
	more(t, s)
	stop()

	samples := s.Samples()
	t.Logf("%d samples, %d missed, from %s to %s", len(samples), s.Missed(), samples[0].Confirmed, moved)
	last := samples[len(samples)-1]
	if last.Epoch < 2 || last.Seq != 11 || last.LSO != last.HW {
		t.Errorf("last sample %+v", last)
	}
	report := verify.Check(verify.Evidence{Samples: samples})
	if err := report.Require(verify.P10); err != nil {
		t.Error(err)
	}

	// A slot that is ahead.
	s = &verify.Sampler{DatabaseURL: db.URL(), Slot: slot, Kafka: opts, Topic: ckptTopic, Name: relayName, Interval: time.Millisecond}
	stop = running(t, s.Run)
	p.write(kgo.TryCommit, pointRecord(t, point(12, lsn-8, 0, 0)))
	more(t, s)
	stop()
	report = verify.Check(verify.Evidence{Samples: s.Samples()})
	if report.Of(verify.P10).Violations == 0 {
		t.Error("a slot ahead of its checkpoint was not noticed")
	}
}

// more waits for samples that began after the call.
func more(t *testing.T, s *verify.Sampler) {
	t.Helper()
	n := s.Count()
	waitFor(t, "samples", func() bool { return s.Count() >= n+3 })
}

// running starts a Run and returns how to end it.
func running(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not in time", what)
		}
	}
}
