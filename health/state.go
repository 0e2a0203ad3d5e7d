package health

import (
	"sync"
	"sync/atomic"
	"time"
)

// beatLimit is how long the beat may be missing before the process counts as
// stuck.
const beatLimit = 30 * time.Second

// Status is what the relay says about itself.
type Status struct {
	State     string // starting, standby, streaming, backoff, halted, ...
	Role      string // leader, standby
	Guarantee string // full, degraded
	Breaker   string // closed, half-open, open
	Ready     bool   // traffic and rollouts may count on this process
	Halted    bool   // a person must act; it will not come back by itself

	// What is the matter; all empty when nothing is.
	Code, Name, Detail, Why, Fix string
	// Connection is the class of a connection fault, such as dns or tls.
	Connection string

	Since time.Time // when State was entered; filled in by Set
}

// State holds the newest Status and the beat. All methods may be called from
// any goroutine.
type State struct {
	now     func() time.Time
	beat    atomic.Int64 // nanoseconds since started
	started time.Time

	mu       sync.Mutex
	status   Status
	wasReady bool
}

// NewState returns a state that starts now, with its first beat.
func NewState() *State { return newState(time.Now) }

func newState(now func() time.Time) *State {
	t := now()
	return &State{now: now, started: t, status: Status{State: "starting", Since: t}}
}

// Set replaces the status. Since is kept while State stays the same.
func (s *State) Set(st Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.Since.IsZero() {
		st.Since = s.now()
		if st.State == s.status.State {
			st.Since = s.status.Since
		}
	}
	s.status = st
	s.wasReady = s.wasReady || st.Ready
}

// Get returns the newest status.
func (s *State) Get() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Beat says that the relay's loop turns, or waits with a reason. It is called
// often and costs one store.
func (s *State) Beat() { s.beat.Store(int64(s.now().Sub(s.started))) }

// sinceBeat is the age of the last beat, by the monotonic clock.
func (s *State) sinceBeat() time.Duration {
	return s.now().Sub(s.started) - time.Duration(s.beat.Load())
}

// Alive tells whether a liveness probe passes.
func (s *State) Alive() bool { return s.sinceBeat() <= beatLimit }

// Up tells whether the relay was ready once, or has halted: a halted relay has
// come up, and a start-up probe must not restart it.
func (s *State) Up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wasReady || s.status.Halted
}
