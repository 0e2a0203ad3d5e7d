package consumer

import (
	"sync"
	"time"
)

// failuresEvery is how often failed attempts are told at most. A receiver that
// is down fails every event, and a line for each would bury the first.
const failuresEvery = 10 * time.Second

// failures thins out the lines about attempts that failed and will be made
// again. Without any, a consumer that retries for ever would stand still and
// say nothing.
type failures struct {
	mu     sync.Mutex
	next   time.Time
	unsaid int
}

// say tells whether this failure is to be told, and how many were not since the
// last that was.
func (f *failures) say(now time.Time) (unsaid int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Before(f.next) {
		f.unsaid++
		return 0, false
	}
	unsaid, f.unsaid, f.next = f.unsaid, 0, now.Add(failuresEvery)
	return unsaid, true
}
