package demo

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

func TestLedgerVerdict(t *testing.T) {
	good := row{id: uuid.New(), key: "a", seq: 1}
	later := row{id: uuid.New(), key: "a", seq: 2}
	other := row{id: uuid.New(), key: "b", seq: 1}
	bad := row{id: uuid.New(), key: "a", seq: 3, poison: true}
	now := time.Now()
	see := func(l *ledger, rows ...row) {
		for _, r := range rows {
			l.sawRecord(r.id, r.key, r.seq, now)
		}
	}
	commit := func(l *ledger, rows ...row) {
		l.announce(rows, true, now)
		l.settle(rows, committed)
	}
	tests := []struct {
		name string
		act  func(*ledger)
		want []string
	}{
		{"all well", func(l *ledger) {
			commit(l, good, later, other, bad)
			see(l, other, good, later)
			l.sawLetter(bad.id, now)
		}, nil},
		{"seen before the answer to COMMIT", func(l *ledger) {
			l.announce([]row{good}, true, now)
			see(l, good)
			l.settle([]row{good}, committed)
		}, nil},
		{"lost", func(l *ledger) {
			commit(l, good, later)
			see(l, good)
		}, []string{"1 committed rows that did not arrive"}},
		{"lost letter", func(l *ledger) {
			commit(l, good, bad)
			see(l, good)
		}, []string{"1 committed rows that did not arrive"}},
		{"twice", func(l *ledger) {
			commit(l, good)
			see(l, good, good)
		}, []string{"1 records seen twice"}},
		{"letter twice", func(l *ledger) {
			commit(l, good, bad)
			see(l, good)
			l.sawLetter(bad.id, now)
			l.sawLetter(bad.id, now)
		}, []string{"1 records seen twice"}},
		{"out of order", func(l *ledger) {
			commit(l, good, later)
			see(l, later, good)
		}, []string{"1 records out of the order of their key"}},
		{"rolled back and seen", func(l *ledger) {
			commit(l, good)
			see(l, good)
			l.announce([]row{other}, false, now)
			see(l, other)
		}, []string{"1 records of transactions that were rolled back"}},
		{"poison among the events", func(l *ledger) {
			commit(l, good, bad)
			see(l, good, bad)
			l.sawLetter(bad.id, now)
		}, []string{"1 records in the wrong kind of topic"}},
		{"sound row among the letters", func(l *ledger) {
			commit(l, good)
			l.sawLetter(good.id, now)
			see(l, good)
		}, []string{"1 records in the wrong kind of topic"}},
		{"foreign", func(l *ledger) {
			commit(l, good)
			see(l, good, later)
		}, []string{"1 records that nobody wrote"}},
		{"in doubt and there", func(l *ledger) {
			l.announce([]row{good}, true, now)
			l.settle([]row{good}, doubtful)
			see(l, good)
			l.resolve(good.id, true)
		}, nil},
		{"in doubt, there, and lost", func(l *ledger) {
			commit(l, other)
			see(l, other)
			l.announce([]row{good}, true, now)
			l.settle([]row{good}, doubtful)
			l.resolve(good.id, true)
		}, []string{"1 committed rows that did not arrive"}},
		{"in doubt, not there, and seen", func(l *ledger) {
			l.announce([]row{good}, true, now)
			l.settle([]row{good}, doubtful)
			see(l, good)
			l.resolve(good.id, false)
		}, []string{"1 records of transactions that were rolled back"}},
		{"nothing at all", func(*ledger) {}, []string{"no event arrived"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLedger()
			test.act(l)
			var got []string
			var findings *FindingsError
			if errors.As((&result{state: l.state()}).verdict(), &findings) {
				got = findings.Findings
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if ids := l.inDoubt(); len(ids) != 0 {
				t.Errorf("%d rows are still in doubt", len(ids))
			}
		})
	}
}

func TestLedgerDoubt(t *testing.T) {
	l := newLedger()
	r := row{id: uuid.New(), key: "a", seq: 1}
	l.announce([]row{r}, true, time.Now())
	if got := l.inDoubt(); !cmp.Equal(got, []uuid.UUID{r.id}) {
		t.Errorf("in doubt while COMMIT is unanswered: %v", got)
	}
	l.settle([]row{r}, doubtful)
	if s := l.state(); s.Waiting != 0 || s.Doubtful != 1 {
		t.Errorf("waiting %d, doubtful %d, want 0 and 1", s.Waiting, s.Doubtful)
	}
	l.resolve(r.id, true)
	if s := l.state(); s.Waiting != 1 || s.Doubtful != 0 || s.Committed != 1 {
		t.Errorf("waiting %d, doubtful %d, committed %d, want 1, 0 and 1", s.Waiting, s.Doubtful, s.Committed)
	}
}

func TestLedgerAwaitEmpty(t *testing.T) {
	l := newLedger()
	ctx := context.Background()
	if !l.awaitEmpty(ctx, time.Minute) {
		t.Error("an empty ledger is not waited for")
	}
	r := row{id: uuid.New(), key: "a", seq: 1}
	l.announce([]row{r}, true, time.Now())
	if l.awaitEmpty(ctx, 10*time.Millisecond) {
		t.Error("a stall was not noticed")
	}
	go l.sawRecord(r.id, r.key, r.seq, time.Now())
	if !l.awaitEmpty(ctx, time.Minute) {
		t.Error("the arrival was not noticed")
	}
}

func TestLedgerKeepsOutagesApart(t *testing.T) {
	l := newLedger()
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	arrive := func(sent, seen int) {
		r := row{id: uuid.New(), key: uuid.NewString(), seq: 1}
		l.announce([]row{r}, true, at(sent))
		l.sawRecord(r.id, r.key, r.seq, at(seen))
	}
	arrive(0, 5)
	l.outageBegins(at(10))
	arrive(8, 60)
	arrive(20, 70)
	l.outageEnds(at(80))
	arrive(79, 90) // committed while the relay caught up
	arrive(100, 105)
	s := l.state()
	if s.Steady.N != 2 || s.Full.N != 5 {
		t.Errorf("%d steady of %d, want 2 of 5", s.Steady.N, s.Full.N)
	}
	if s.Steady.Max > 5100 || s.Full.Max < 50000 {
		t.Errorf("steady up to %d us, all up to %d us", s.Steady.Max, s.Full.Max)
	}
}
