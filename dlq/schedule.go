package dlq

import "time"

// Schedule says when a letter is replayed without a person: Base after its
// first attempt, twice as long after each further one, Max at most. A letter
// that has had its Attempts is left to a person, and so is every letter of the
// zero Schedule.
type Schedule struct {
	Base     time.Duration
	Max      time.Duration
	Attempts int
}

// Wait returns how long to wait after so many attempts; false: no longer.
func (s Schedule) Wait(attempts int) (time.Duration, bool) {
	if attempts < 1 || attempts >= s.Attempts || s.Base <= 0 {
		return 0, false
	}
	wait := s.Base
	for range attempts - 1 {
		if wait >= s.Max/2 {
			wait = s.Max
			break
		}
		wait *= 2
	}
	// Headers have whole seconds.
	return max(min(wait, s.Max).Truncate(time.Second), time.Second), true
}

// Plan writes into a letter when it is to be replayed, from its own count of
// attempts and the time it was written.
func (s Schedule) Plan(l *Letter) {
	l.NextAt, l.Backoff = time.Time{}, 0
	if wait, ok := s.Wait(l.Attempts); ok {
		l.NextAt, l.Backoff = l.At.Add(wait), wait
	}
}
