package sink_test

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// The client stores the partitions of a topic that is new to it after it has
// released the records that wait for them. A broker that answers in between,
// as a near one does when the processor is busy, must not make it forget what
// the transaction holds: it would answer a commit with nil and abort.
func TestNewTopicsUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps all processors busy")
	}
	var spinners sync.WaitGroup
	stop := make(chan struct{})
	for range 4 * runtime.GOMAXPROCS(0) {
		spinners.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	defer spinners.Wait()
	defer close(stop)
	r := newRig(t)
	r.cfg.ReadBackTimeout = 3 * time.Second
	for range 30 {
		p, s := r.open(t)
		for range 2 {
			c := follow(s, 1)
			if err := p.write(t.Context(), t, c, event("e", 0)); err != nil {
				t.Fatal(err)
			}
			if err := p.ReadBack(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			s = sessionAt(s, c)
		}
		p.Close()
	}
}
