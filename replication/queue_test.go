package replication_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/replication"
)

func idle(end pglogrepl.LSN) *replication.Tx { return &replication.Tx{Idle: true, EndLSN: end} }

func take(t *testing.T, q *replication.Queue) []*replication.Tx {
	t.Helper()
	items, err := q.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func TestQueueBoundedByBytes(t *testing.T) {
	t.Parallel()
	q := replication.NewQueue(10_000)
	n := 0
	for room := true; room; n++ {
		room = q.Put(&replication.Tx{Bytes: 1000})
		if room != q.HasRoom() {
			t.Fatal("put and hasRoom disagree")
		}
	}
	if n < 7 || n > 10 {
		t.Errorf("%d items of 1000 bytes filled a queue of 10000", n)
	}
	if got := take(t, q); len(got) != n {
		t.Errorf("took %d of %d", len(got), n)
	}
	if !q.HasRoom() {
		t.Error("an empty queue has no room")
	}
	select {
	case <-q.Room():
	default:
		t.Error("taking did not wake the reader")
	}
	// One item always fits, or a row larger than the queue would stop the relay.
	if q.Put(&replication.Tx{Bytes: 1 << 30}) {
		t.Error("room beside an item larger than the queue")
	}
	if got := take(t, q); len(got) != 1 {
		t.Errorf("took %d", len(got))
	}
}

// TestQueueCountsItems: transactions without data take memory too.
func TestQueueCountsItems(t *testing.T) {
	t.Parallel()
	q := replication.NewQueue(100_000)
	for n := 0; q.Put(&replication.Tx{Last: true}); n++ {
		if n > 1000 {
			t.Fatal("a thousand items take nothing")
		}
	}
}

func TestQueueCoalescesIdle(t *testing.T) {
	t.Parallel()
	q := replication.NewQueue(10_000)
	for i := range 10_000 {
		tx := idle(pglogrepl.LSN(100 + i))
		tx.ReplyAsked = i == 5
		if !q.Put(tx) {
			t.Fatal("keepalives filled the queue")
		}
	}
	q.Put(idle(50)) // sent while a commit was being written
	q.Put(&replication.Tx{CommitLSN: 20_000, Last: true})
	q.Put(idle(30_000))
	got := take(t, q)
	if len(got) != 3 {
		t.Fatalf("%d items", len(got))
	}
	if got[0].EndLSN != 10_099 || !got[0].ReplyAsked {
		t.Errorf("the first is at %s, reply asked %t: a keepalive in the run asked, and positions do not go back", got[0].EndLSN, got[0].ReplyAsked)
	}
	if got[2].EndLSN != 30_000 || got[2].ReplyAsked {
		t.Errorf("an idle position behind a transaction became %+v", got[2])
	}
}

func TestQueueClose(t *testing.T) {
	t.Parallel()
	end, later := errors.New("end"), errors.New("later")
	q := replication.NewQueue(10_000)
	q.Put(&replication.Tx{Last: true})
	q.Close(end)
	q.Close(later)
	if got := take(t, q); len(got) != 1 {
		t.Errorf("took %d: what was read before the end is lost", len(got))
	}
	for range 3 {
		if _, err := q.Take(t.Context()); !errors.Is(err, end) {
			t.Errorf("got %v, want the first reason", err)
		}
	}
}

func TestQueueTakeWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := replication.NewQueue(10_000)
		got := make(chan int)
		go func() { got <- len(take(t, q)) }()
		synctest.Wait()
		q.Put(idle(1))
		if n := <-got; n != 1 {
			t.Errorf("took %d", n)
		}

		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		errs := make(chan error)
		go func() { _, err := q.Take(ctx); errs <- err }()
		synctest.Wait()
		cancel(gone)
		if err := <-errs; !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}

		go func() { _, err := q.Take(t.Context()); errs <- err }()
		synctest.Wait()
		q.Close(gone)
		if err := <-errs; !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
	})
}
