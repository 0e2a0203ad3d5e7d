package relay

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/replication"
)

// base is a session that begins where nothing was published yet.
func base() checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Pos: checkpoint.Position{Timeline: 1, EndLSN: 0x100}}
}

// part is n rows of transaction number x, ordinals from first on, and their
// records, each of 10 bytes.
func part(x, n, first int, last bool) (*replication.Tx, []*kgo.Record, int) {
	commit, end := lsns(x)
	t := &replication.Tx{XID: uint32(700 + x), CommitLSN: commit, Last: last, CommitTime: time.Unix(int64(x), 0)}
	if last {
		t.EndLSN = end
	}
	records := make([]*kgo.Record, n)
	for i := range n {
		t.Rows = append(t.Rows, replication.Row{Ord: uint64(first + i), Seq: uint64(first + i)})
		records[i] = &kgo.Record{Value: []byte(strconv.Itoa(700+x) + "/" + strconv.Itoa(first+i))}
	}
	return t, records, 10 * n
}

// feed adds a part and fails if that blocks.
func feed(t *testing.T, b *gathering, x, n, first int, last bool) {
	t.Helper()
	tx, records, bytes := part(x, n, first, last)
	if err := addNow(b, tx, records, bytes); err != nil {
		t.Fatalf("transaction %d, %d rows: %v", x, n, err)
	}
}

var errFull = errors.New("blocked")

func addNow(b *gathering, tx *replication.Tx, records []*kgo.Record, bytes int) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errFull)
	return b.add(ctx, tx, records, bytes, 0)
}

// takeNow takes what can be taken without waiting; nil if that is nothing.
func takeNow(t *testing.T, b *gathering) *group {
	t.Helper()
	stop := make(chan struct{})
	close(stop)
	for {
		// Whether stop or the signal is seen first is left to chance.
		g, err := b.take(t.Context(), stop, time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if g != nil || len(b.filled) == 0 {
			return g
		}
	}
}

func (g *group) values() []string {
	if g == nil {
		return nil
	}
	var out []string
	for _, r := range g.records {
		out = append(out, string(r.Value))
	}
	return out
}

// Everything that waits is taken at once, and the position is that of the last
// of it.
func TestTakeAllThatWaits(t *testing.T) {
	b := newGathering(Limits{Size: 100, Max: 1000, MaxBytes: 1 << 20}, base())
	if g := takeNow(t, b); g != nil {
		t.Fatalf("took %v of nothing", g.values())
	}
	feed(t, b, 0, 2, 1, false)
	if g := takeNow(t, b); g != nil {
		t.Fatalf("took %v of a transaction that is not complete", g.values())
	}
	feed(t, b, 0, 1, 3, true)
	feed(t, b, 1, 1, 1, true)
	feed(t, b, 2, 1, 1, false)
	g := takeNow(t, b)
	if diff := cmp.Diff([]string{"700/1", "700/2", "700/3", "701/1"}, g.values()); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	commit, end := lsns(1)
	if want := (checkpoint.Position{Timeline: 1, CommitLSN: commit, EndLSN: end}); g.pos != want {
		t.Errorf("position %+v, want %+v", g.pos, want)
	}
	if want := (checkpoint.Transaction{CommitLSN: commit, EndLSN: end, XID: 701, CommitTime: time.Unix(1, 0)}); g.lastTx != want {
		t.Errorf("last transaction %+v, want %+v", g.lastTx, want)
	}
	if !g.oldest.Equal(time.Unix(0, 0)) || g.bytes != 40 {
		t.Errorf("oldest %s, %d bytes", g.oldest, g.bytes)
	}
	feed(t, b, 2, 1, 2, true)
	g = takeNow(t, b)
	if diff := cmp.Diff([]string{"702/1", "702/2"}, g.values()); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if !g.oldest.Equal(time.Unix(2, 0)) {
		t.Errorf("oldest %s", g.oldest)
	}
}

// A transaction is cut only when it alone is over the limits, and while
// nothing else can be taken.
func TestCutOnlyWhatIsTooLargeAlone(t *testing.T) {
	for _, tc := range []struct {
		name   string
		limits Limits
	}{
		{"by rows", Limits{Size: 4, Max: 4, MaxBytes: 1 << 20}},
		{"by bytes", Limits{Size: 100, Max: 100, MaxBytes: 40}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newGathering(tc.limits, base())
			feed(t, b, 0, 1, 1, true)
			// With the row before it the limit is reached: add waits, nothing is cut.
			tx, records, bytes := part(1, 3, 1, false)
			if err := addNow(b, tx, records, bytes); !errors.Is(err, errFull) {
				t.Fatalf("add at the limit: %v", err)
			}
			g := takeNow(t, b)
			if diff := cmp.Diff([]string{"700/1"}, g.values()); diff != "" || g.pos.Cut() {
				t.Fatalf("position %+v, rows (-want +got):\n%s", g.pos, diff)
			}
			before := g.pos
			// Alone it is over the limit.
			tx, records, bytes = part(1, 3, 4, false)
			if err := addNow(b, tx, records, bytes); !errors.Is(err, errFull) {
				t.Fatalf("add over the limit: %v", err)
			}
			g = takeNow(t, b)
			commit, end := lsns(1)
			if want := (checkpoint.Position{Timeline: 1, CommitLSN: commit, EndLSN: before.EndLSN, Ordinal: 6}); g.pos != want {
				t.Errorf("cut at %+v, want %+v", g.pos, want)
			}
			if want := (checkpoint.Transaction{CommitLSN: commit, XID: 701, CommitTime: time.Unix(1, 0)}); g.lastTx != want {
				t.Errorf("last transaction %+v, want %+v", g.lastTx, want)
			}
			feed(t, b, 1, 1, 7, true)
			g = takeNow(t, b)
			if want := (checkpoint.Position{Timeline: 1, CommitLSN: commit, EndLSN: end}); g.pos != want {
				t.Errorf("complete at %+v, want %+v", g.pos, want)
			}
			if diff := cmp.Diff([]string{"701/7"}, g.values()); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		})
	}
}

// After a restart inside a cut transaction Postgres greets before it sends the
// rest. Its greeting moves nothing that is not published.
func TestIdleDoesNotCompleteACut(t *testing.T) {
	commit, end := lsns(3)
	cut := checkpoint.Position{Timeline: 1, CommitLSN: commit, EndLSN: 0x100, Ordinal: 40}
	b := newGathering(Limits{Size: 10, Max: 10, MaxBytes: 1 << 20}, checkpoint.Checkpoint{Pos: cut})
	b.idle(0x100, true)
	if g := takeNow(t, b); g.pos != cut {
		t.Errorf("at the floor: %+v, want %+v", g.pos, cut)
	}
	b.idle(0x200, true)
	cut.EndLSN = 0x200
	if g := takeNow(t, b); g.pos != cut {
		t.Errorf("behind the floor: %+v, want %+v", g.pos, cut)
	}
	feed(t, b, 3, 1, 41, true)
	if g, want := takeNow(t, b), (checkpoint.Position{Timeline: 1, CommitLSN: commit, EndLSN: end}); g.pos != want {
		t.Errorf("complete: %+v, want %+v", g.pos, want)
	}
}

// Idle positions replace each other, never go back, and wait for the heartbeat
// unless Postgres waits for them.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newGathering(Limits{Size: 10, Max: 10, MaxBytes: 1 << 20}, base())
		start := time.Now()
		take := func() *group {
			g, err := b.take(t.Context(), nil, start.Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		for _, end := range []pglogrepl.LSN{0x110, 0x180, 0x120} {
			b.idle(end, false)
		}
		g := take()
		if waited := time.Since(start); waited != time.Minute || g.pos.EndLSN != 0x180 || !g.empty() {
			t.Errorf("after %s a group of %v at %s", waited, g.values(), g.pos)
		}
		b.idle(0x190, false)
		if g := take(); g.pos.EndLSN != 0x190 {
			t.Errorf("when the heartbeat is overdue: %s", g.pos)
		}

		start = time.Now()
		b.idle(0x1A0, true)
		b.idle(0x1B0, false)
		g = take()
		if waited := time.Since(start); waited != 0 || g.pos.EndLSN != 0x1B0 || !g.reply {
			t.Errorf("asked for a reply: after %s a group at %s", waited, g.pos)
		}

		// With rows an idle position is only a better position.
		feed(t, b, 1, 1, 1, true)
		commit, end := lsns(1)
		b.idle(end+8, false)
		g = take()
		if want := (checkpoint.Position{Timeline: 1, CommitLSN: commit, EndLSN: end + 8}); g.pos != want || len(g.records) != 1 {
			t.Errorf("rows and idle: %+v with %v, want %+v", g.pos, g.values(), want)
		}
		// And the last transaction with rows stays the last one.
		b.idle(end+16, true)
		if g := take(); g.lastTx.CommitLSN != commit {
			t.Errorf("last transaction of an idle group: %+v", g.lastTx)
		}
	})
}

// The limit doubles while groups fill it, falls by half while they are far
// below, and stays between Size and Max.
func TestLimitFollowsTheLoad(t *testing.T) {
	b := newGathering(Limits{Size: 100, Max: 1000, MaxBytes: 1 << 30}, base())
	x := 0
	for _, step := range []struct{ rows, limit int }{
		{99, 100},
		{100, 200},
		{150, 200},
		{200, 400},
		{399, 400},
		{500, 800},
		{900, 1000},
		{5000, 1000},
		{250, 1000},
		{249, 500},
		{125, 500},
		{1, 250},
		{0, 125},
		{1, 100},
		{1, 100},
	} {
		if step.rows == 0 {
			_, end := lsns(x)
			b.idle(end, true)
		} else {
			tx, records, bytes := part(x, step.rows, 1, true)
			_ = addNow(b, tx, records, bytes)
		}
		if g := takeNow(t, b); len(g.values()) != step.rows {
			t.Fatalf("took %d rows, want %d", len(g.values()), step.rows)
		}
		if b.limit != step.limit {
			t.Errorf("limit is %d after %d rows, want %d", b.limit, step.rows, step.limit)
		}
		x++
	}
}

// add waits for room, goes on when there is, and gives up when told to.
func TestAddWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newGathering(Limits{Size: 2, Max: 2, MaxBytes: 1 << 20}, base())
		ctx, cancel := context.WithCancelCause(t.Context())
		added := make(chan error, 1)
		add := func(x int) {
			tx, records, bytes := part(x, 2, 1, true)
			added <- b.add(ctx, tx, records, bytes, 0)
		}
		go add(0)
		synctest.Wait()
		if len(added) > 0 {
			t.Fatal("add did not wait")
		}
		if g := takeNow(t, b); len(g.records) != 2 {
			t.Errorf("took %v", g.values())
		}
		if err := <-added; err != nil {
			t.Errorf("add after take: %v", err)
		}
		go add(1)
		synctest.Wait()
		if len(added) > 0 {
			t.Fatal("add did not wait")
		}
		cancel(errFull)
		if err := <-added; !errors.Is(err, errFull) {
			t.Errorf("add after cancel: %v", err)
		}
	})
}

func TestTakeEnds(t *testing.T) {
	b := newGathering(Limits{Size: 1, Max: 1, MaxBytes: 1}, base())
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errFull)
	if g, err := b.take(ctx, nil, time.Now().Add(time.Hour)); g != nil || !errors.Is(err, errFull) {
		t.Errorf("cancelled: %v, %v", g, err)
	}
	stop := make(chan struct{})
	close(stop)
	if g, err := b.take(t.Context(), stop, time.Now().Add(time.Hour)); g != nil || err != nil {
		t.Errorf("stopped: %v, %v", g, err)
	}
}
