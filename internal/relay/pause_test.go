package relay

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// pauseSwitch is what the guard is to a relay.
type pauseSwitch struct {
	mu      sync.Mutex
	on      bool
	changed chan struct{}
}

func newSwitch(on bool) *pauseSwitch { return &pauseSwitch{on: on, changed: make(chan struct{})} }

func (p *pauseSwitch) set(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.on = on
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pauseSwitch) ask() (*fault.Error, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on {
		return nil, p.changed
	}
	return fault.New(fault.Paused, "by the test"), p.changed
}

// A relay that starts paused takes the slot and opens nothing; while it is
// paused nothing is begun and nothing confirmed, heartbeats included; then it
// goes on where it was.
func TestPause(t *testing.T) {
	bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
		sw := newSwitch(true)
		r.Paused = sw.ask
		var states []State
		r.OnState = func(s State, why *fault.Error) {
			if (s == Paused) != (why != nil) {
				t.Errorf("state %s with cause %v", s, why)
			}
			states = append(states, s)
		}
		stop := w.start(t, r)
		settle(time.Minute)
		same(t, "calls while paused from the start", []string{"OpenSource"}, w.called())
		sw.set(false)
		synctest.Wait()
		same(t, "calls", []string{"OpenSink", "Resume", "Begin", "Add 700/1", "Commit 2", "ReadBack 2", "Confirm 0/190"}, w.called())

		sw.set(true)
		synctest.Wait() // it waits for rows, and is to notice all the same
		w.grow(transactions(0, 1)[1:]...)
		w.keepalive(0x300, true)
		settle(time.Hour)
		if got := w.called(); got != nil {
			t.Errorf("while paused: %v", got)
		}
		sw.set(false)
		settle(time.Second)
		if calls := w.called(); !contains(calls, "Add 701/1") || !contains(calls, "Confirm 0/300") {
			t.Errorf("after it: %v", calls)
		}
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		same(t, "states", []State{Starting, Paused, Starting, Streaming, Paused, Streaming, Stopped}, states)
	})
}

// Who is paused can be stopped, at the start and later.
func TestStopWhilePaused(t *testing.T) {
	for _, early := range []bool{true, false} {
		bubble(t, []int{1}, func(t *testing.T, w *world, r *Relay) {
			sw := newSwitch(early)
			r.Paused = sw.ask
			stop := w.start(t, r)
			synctest.Wait()
			sw.set(true)
			synctest.Wait()
			w.grow(transactions(0, 1)[1:]...)
			synctest.Wait()
			before := len(w.published())
			begun := time.Now()
			if err := stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
			if took := time.Since(begun); took > 0 {
				t.Errorf("stopping took %s", took)
			}
			if n := len(w.published()); n != before {
				t.Errorf("%d rows were sent on the way out", n-before)
			}
		})
	}
}
