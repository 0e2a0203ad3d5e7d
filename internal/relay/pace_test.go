package relay

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// An idle relay writes its position every Heartbeat, and only if the WAL moved.
func TestHeartbeat(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world, r *Relay) {
		r.Heartbeat = 10 * time.Second
		stop := w.start(t, r)
		start := time.Now()
		for i, end := range []pglogrepl.LSN{0x120, 0x130, 0x140} {
			w.keepalive(end, false)
			synctest.Wait()
			if n := len(w.read()); n != 1 {
				t.Fatalf("%d checkpoints %s after the start", n, time.Since(start))
			}
			settle([]time.Duration{3, 3, 3}[i] * time.Second)
		}
		settle(time.Second)
		synctest.Wait()
		if n, pos := len(w.read()), w.newest().Pos; n != 2 || pos.EndLSN != 0x140 {
			t.Errorf("%d checkpoints, the last at %s", n, pos)
		}
		same(t, "confirmed", pglogrepl.LSN(0x140), w.confirmed())
		w.keepalive(0x150, false)
		settle(9 * time.Second)
		if n := len(w.read()); n != 2 {
			t.Errorf("%d checkpoints 9 s after a heartbeat", n)
		}
		settle(time.Second)
		same(t, "confirmed", pglogrepl.LSN(0x150), w.confirmed())
		w.keepalive(0x150, true) // a question, but nothing new
		settle(time.Minute)
		if n := len(w.read()); n != 3 {
			t.Errorf("%d checkpoints, and the WAL did not move", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// Brokers forget who is silent.
func TestKeepAlive(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world, r *Relay) {
		stop := w.start(t, r)
		synctest.Wait()
		settle(keepAlive - time.Minute)
		w.holder.again(0x100)
		settle(time.Second)
		if n := len(w.read()); n != 1 {
			t.Errorf("%d checkpoints before the hour is over", n)
		}
		settle(time.Minute)
		w.holder.again(0x100)
		settle(time.Second)
		if n := len(w.read()); n != 2 {
			t.Errorf("%d checkpoints after an hour", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// again queues one more keepalive at the same place.
func (s *fakeSource) again(end pglogrepl.LSN) {
	s.p.mu.Lock()
	s.idle(end, false)
	s.p.mu.Unlock()
	s.p.grow()
}

// A Postgres that asks waits for exactly this position, as it does when it
// wants to stop: it has it at once.
func TestReplyAsked(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world, r *Relay) {
		r.Heartbeat = time.Hour
		stop := w.start(t, r)
		synctest.Wait()
		start := time.Now()
		w.keepalive(0x150, true)
		synctest.Wait()
		same(t, "confirmed", pglogrepl.LSN(0x150), w.confirmed())
		if d := time.Since(start); d != 0 {
			t.Errorf("it took %s", d)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// The same where the checkpoint stands already, and only the slot was not told:
// the predecessor died in between.
func TestReplyAskedAfterARestart(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		w.errs["Confirm"], w.errs["read back"] = nil, []error{fault.New(fault.KafkaUnreachable, "injected")}
		w.reply = true
		r.Heartbeat = time.Hour
		stop := w.start(t, r)
		settle(time.Second)
		same(t, "confirmed", pglogrepl.LSN(0x190), w.confirmed())
		same(t, "rows", []string{"700/1"}, w.published())
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// MinCommitInterval spaces commits. What comes meanwhile goes into the next.
func TestMinCommitInterval(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		r.MinCommitInterval = time.Second
		r.Limits = Limits{Size: 100, Max: 100, MaxBytes: 1 << 20}
		stop := w.start(t, r)
		synctest.Wait()
		w.grow(transactions(0, 1, 1, 1)[1:]...)
		settle(999 * time.Millisecond)
		synctest.Wait()
		if n := len(w.read()); n != 2 {
			t.Errorf("%d checkpoints within the interval", n)
		}
		settle(time.Millisecond)
		synctest.Wait()
		if n, rows := len(w.read()), w.newest().Rows; n != 3 || rows != 3 {
			t.Errorf("%d checkpoints after the interval, the last with %d rows", n, rows)
		}
		// A stop does not wait for it.
		start := time.Now()
		if err := stop(); err != nil || time.Since(start) > 0 {
			t.Errorf("stop: %v after %s", err, time.Since(start))
		}
	})
}

// While a commit is under way all that comes is gathered, and then goes out in
// one transaction.
func TestGroupCommit(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		r.Limits = Limits{Size: 4, Max: 100, MaxBytes: 1 << 20}
		w.stall = func(context.Context) error {
			time.Sleep(10 * time.Millisecond)
			return nil
		}
		stop := w.start(t, r)
		settle(time.Millisecond)
		w.grow(transactions(0, 1, 1, 1)[1:]...)
		settle(time.Second)
		var sizes []int
		for _, c := range w.read()[1:] {
			sizes = append(sizes, len(c.ids))
		}
		same(t, "rows in each transaction", []int{1, 3}, sizes)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A stop lets the commit under way end, and confirms it.
func TestDrain(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		w.stall = func(context.Context) error {
			time.Sleep(900 * time.Millisecond) // of a second
			return nil
		}
		stop := w.start(t, r)
		settle(100 * time.Millisecond)
		w.grow(transactions(0, 1)[1:]...) // gathered, and left to the next start
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		same(t, "rows", []string{"700/1"}, w.published())
		same(t, "confirmed", pglogrepl.LSN(0x190), w.confirmed())
		same(t, "calls", []string{
			"OpenSource", "OpenSink", "Resume", "Begin", "Add 700/1", "Commit 2", "ReadBack 2", "Confirm 0/190", "Close", "Source.Run ends",
		}, w.called())
	})
}

// What does not fit the budget is given up, and Run ends all the same.
func TestDrainTimesOut(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		var cause error
		w.stall = func(ctx context.Context) error {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return cause
		}
		stop := w.start(t, r)
		synctest.Wait()
		start := time.Now()
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if d := time.Since(start); d != r.DrainTimeout {
			t.Errorf("Run took %s to end", d)
		}
		if !fault.Has(cause, fault.Shutdown) {
			t.Errorf("the commit was cancelled with %v", cause)
		}
		same(t, "confirmed", pglogrepl.LSN(0x100), w.confirmed())
	})
}

// A stop while nothing is under way ends at once, wherever the relay is.
func TestStopAtOnce(t *testing.T) {
	away := make([]error, 100)
	for i := range away {
		away[i] = fault.New(fault.KafkaUnreachable, "injected")
	}
	for name, prepare := range map[string]func(t *testing.T, w *world, r *Relay){
		"idle":                 func(*testing.T, *world, *Relay) {},
		"standing by":          func(t *testing.T, w *world, _ *Relay) { w.holder = &fakeSource{} },
		"waiting for Kafka":    func(_ *testing.T, w *world, r *Relay) { w.errs["OpenSink"], r.Pause = away, Backoffs },
		"between the attempts": func(_ *testing.T, w *world, r *Relay) { w.errs["OpenSource"], r.Pause = away, Backoffs },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *world, r *Relay) {
				prepare(t, w, r)
				stop := w.start(t, r)
				synctest.Wait()
				start := time.Now()
				if err := stop(); err != nil || time.Since(start) > 0 {
					t.Errorf("Run returned %v after %s", err, time.Since(start))
				}
			})
		})
	}
}

// Beat goes on for as long as Run does, whatever the relay waits for.
func TestBeat(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world, r *Relay) {
		w.errs["OpenSink"] = []error{errors.New("halt")}
		beats := 0
		r.Beat = func() { beats++ }
		w.holder = &fakeSource{}
		stop := w.start(t, r)
		settle(time.Minute)
		if want := int(time.Minute/beatInterval) + 1; beats < want-1 || beats > want {
			t.Errorf("%d beats in a minute", beats)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		last := beats
		settle(time.Minute)
		if beats != last {
			t.Error("it beats after the end")
		}
	})
}
