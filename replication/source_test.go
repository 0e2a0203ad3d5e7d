package replication_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/replication"
	"github.com/holdwall/outbox-relay/test/harness"
)

// site is a database with an outbox, its publication and its slot.
type site struct {
	*harness.Database
	cfg replication.Config
}

func newSite(t testing.TB, pg *harness.PostgresServer) *site {
	t.Helper()
	db := pg.NewDatabase(t)
	s := &site{Database: db}
	s.cfg = replication.Config{
		Conn: parse(t, db.URL()), Slot: db.Slot("relay"), Publication: "outbox pub", Schema: "outbox", Table: "events",
		StandbyPoll: 20 * time.Millisecond,
	}
	db.Exec(t, `CREATE SCHEMA outbox`, `CREATE TABLE outbox.events (id text PRIMARY KEY, payload bytea)`, s.cfg.CreatePublicationSQL())
	s.createSlot(t)
	return s
}

func (s *site) createSlot(t testing.TB) { s.Exec(t, s.cfg.CreateSlotSQL(150000)) }

// events inserts one transaction with a row for each id.
func (s *site) events(t testing.TB, ids ...string) {
	t.Helper()
	s.Exec(t, `INSERT INTO outbox.events SELECT unnest('{`+strings.Join(ids, ",")+`}'::text[]), '\x00ff'`)
}

func (s *site) slot(t testing.TB) replication.Slot {
	t.Helper()
	slot, err := replication.Inspect(t.Context(), s.Connect(t), s.cfg.Slot)
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

func parse(t testing.TB, url string) *pgconn.Config {
	t.Helper()
	c, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// running is a source that is being read. Its end is awaited by the test.
type running struct {
	*replication.Source
	t    testing.TB
	stop context.CancelCauseFunc
	wait func() error // for the end of Run, not for ever
}

func open(t testing.TB, cfg replication.Config) (*replication.Source, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return replication.Open(ctx, cfg, zerolog.New(zerolog.NewTestWriter(t)), nil)
}

var (
	errStopped      = errors.New("stopped by the test")
	errStillRunning = errors.New("still running after 20 s")
)

// run opens a source and holds the slot; reading begins with Resume.
func run(t testing.TB, cfg replication.Config) *running {
	t.Helper()
	src, err := open(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return runSource(t, src)
}

func runSource(t testing.TB, src *replication.Source) *running {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx) }()
	r := &running{Source: src, t: t, stop: cancel, wait: sync.OnceValue(func() error {
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errStillRunning
		}
	})}
	t.Cleanup(func() {
		if cancel(errStopped); errors.Is(r.wait(), errStillRunning) {
			<-done
		}
	})
	return r
}

func (r *running) end() {
	r.t.Helper()
	r.stop(errStopped)
	if err := r.wait(); !errors.Is(err, errStopped) {
		r.t.Fatalf("ended with %v", err)
	}
}

// next returns the next transaction that is no idle position.
func (r *running) next() *replication.Tx {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	for {
		tx, err := r.Next(ctx)
		if err != nil {
			r.t.Fatalf("next: %v", err)
		}
		if !tx.Idle {
			return tx
		}
	}
}

func (r *running) want(ids ...string) *replication.Tx {
	r.t.Helper()
	tx := r.next()
	var got []string
	for _, row := range tx.Rows {
		got = append(got, string(row.Values[0]))
	}
	if d := cmp.Diff(ids, got); d != "" {
		r.t.Fatalf("%s: -want +got\n%s", tx, d)
	}
	return tx
}

// eventually polls what only the server knows.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestSource(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	before := s.slot(t)
	s.events(t, "a", "b")

	src := run(t, s.cfg)
	st := src.State()
	if st.Database != s.Name || st.Timeline != 1 || st.SystemID == "" || st.OptionsHash == "" || st.Switches != nil {
		t.Errorf("state %+v", st)
	}
	if st.Slot.ConfirmedLSN != before.ConfirmedLSN || st.FlushLSN < before.CurrentLSN {
		t.Errorf("confirmed %s, was %s; WAL ends at %s, was at %s", st.Slot.ConfirmedLSN, before.ConfirmedLSN, st.FlushLSN, before.CurrentLSN)
	}
	src.Resume(replication.Resume{Floor: st.Slot.ConfirmedLSN})
	first := src.want("a", "b")
	s.events(t, "c")
	second := src.want("c")
	if !first.Last || first.EndLSN <= first.CommitLSN || second.CommitLSN < first.EndLSN || second.XID == first.XID {
		t.Errorf("%+v, then %+v", first, second)
	}
	if d := cmp.Diff([]replication.Column{{Name: "id", TypeOID: 25, Key: true}, {Name: "payload", TypeOID: 17}}, second.Relation.Columns); d != "" {
		t.Errorf("columns: -want +got\n%s", d)
	}

	// What is not confirmed stays, what is confirmed goes, and nothing is
	// taken back.
	if got := s.slot(t).ConfirmedLSN; got != before.ConfirmedLSN {
		t.Errorf("slot moved to %s without a confirmation", got)
	}
	src.Confirm(first.EndLSN)
	src.Confirm(first.CommitLSN)
	eventually(t, "the slot is at the end of the first transaction", func() bool { return s.slot(t).ConfirmedLSN == first.EndLSN })
	src.Confirm(second.EndLSN)
	src.end() // tells the last position before it goes
	if got := s.slot(t); got.ConfirmedLSN != second.EndLSN || got.Active {
		t.Errorf("slot at %s, active %t, want %s", got.ConfirmedLSN, got.Active, second.EndLSN)
	}
	var err error
	for err == nil { // idle positions may have been left over
		_, err = src.Next(t.Context())
	}
	if !errors.Is(err, errStopped) {
		t.Errorf("next after the end: %v", err)
	}
}

// TestSourceResumes: after a restart Postgres sends again what was not
// confirmed, and Resume drops what the checkpoint covers.
func TestSourceResumes(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	src := run(t, s.cfg)
	src.Resume(replication.Resume{})
	s.events(t, "a", "b", "c")
	s.events(t, "d")
	a := src.want("a", "b", "c")
	d := src.want("d")
	src.end()
	for _, c := range []struct {
		name   string
		resume replication.Resume
		want   [][]string
		code   *fault.Code
	}{
		{"from the start", replication.Resume{}, [][]string{{"a", "b", "c"}, {"d"}}, nil},
		{"after the first", replication.Resume{Floor: a.EndLSN, WitnessLSN: a.CommitLSN, WitnessXID: a.XID}, [][]string{{"d"}}, nil},
		{"cut", replication.Resume{Floor: 1, CutLSN: a.CommitLSN, CutOrd: a.Rows[1].Ord}, [][]string{{"c"}, {"d"}}, nil},
		{"cut behind the last row", replication.Resume{Floor: 1, CutLSN: a.CommitLSN, CutOrd: a.Rows[2].Ord}, [][]string{nil, {"d"}}, nil},
		{"another history", replication.Resume{Floor: d.EndLSN, WitnessLSN: a.CommitLSN, WitnessXID: a.XID + 1}, nil, fault.HistoryMismatch},
		{"a history without the witness", replication.Resume{Floor: d.EndLSN, WitnessLSN: d.CommitLSN - 1, WitnessXID: d.XID}, nil, fault.HistoryMismatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := run(t, s.cfg)
			src.Resume(c.resume)
			for _, ids := range c.want {
				tx := src.want(ids...)
				if !tx.Last || tx.EndLSN == 0 {
					t.Errorf("%s has no end", tx)
				}
			}
			if c.code == nil {
				src.end()
				return
			}
			if err := src.wait(); !fault.Has(err, c.code) {
				t.Errorf("got %v, want %s", err, c.code.Name)
			}
		})
	}
}

// TestSourceIdle: WAL of others moves the position, so that the slot can
// follow while the outbox is silent.
func TestSourceIdle(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	src := run(t, s.cfg)
	src.Resume(replication.Resume{Floor: src.State().Slot.ConfirmedLSN})
	s.Exec(t, `CREATE TABLE noise (i int)`, `INSERT INTO noise SELECT generate_series(1, 1000)`)
	target := s.slot(t).CurrentLSN
	last := pglogrepl.LSN(0)
	for last < target {
		tx, err := src.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !tx.Idle || len(tx.Rows) > 0 || tx.EndLSN < last {
			t.Fatalf("got %+v after %s", tx, last)
		}
		last = tx.EndLSN
	}
	src.Confirm(last)
	eventually(t, "the slot follows", func() bool { return s.slot(t).ConfirmedLSN >= target })
}

// TestSourceLarge: a transaction far larger than the queue arrives whole, in
// parts, in order.
func TestSourceLarge(t *testing.T) {
	t.Parallel()
	s := newSite(t, harness.Postgres(t))
	s.cfg.QueueBytes = 64 << 10
	src := run(t, s.cfg)
	src.Resume(replication.Resume{})
	const rows = 5000
	s.Exec(t, fmt.Sprintf(`INSERT INTO outbox.events SELECT i, decode(repeat('ab', 1000), 'hex') FROM generate_series(1, %d) i`, rows))
	var n, parts uint64
	for last := false; !last; parts++ {
		tx := src.next()
		for _, r := range tx.Rows {
			n++
			if r.Ord != n || r.Seq != n || string(r.Values[0]) != fmt.Sprint(n) || len(r.Values[1]) != 2002 {
				t.Fatalf("row %d: ordinal %d, index %d, id %q, %d bytes", n, r.Ord, r.Seq, r.Values[0], len(r.Values[1]))
			}
		}
		last = tx.Last
	}
	if n != rows || parts < rows*2000/replication.PartBytes {
		t.Errorf("%d rows in %d parts", n, parts)
	}
}
