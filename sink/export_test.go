package sink

import "time"

// CountTransaction returns a function that counts a transaction of n records,
// most of one topic.
func CountTransaction(m *Metrics) func(n int, took time.Duration) {
	var load cargo
	return func(n int, took time.Duration) {
		load.reset()
		for i := range n {
			if i%100 == 99 {
				load.add("letters", 10)
			} else {
				load.add("events", 100)
			}
		}
		load.add("checkpoint", 200)
		m.committed(uint64(n), &load, took)
		m.phase(phaseProduce, took)
		m.phase(phaseRead, took)
	}
}
