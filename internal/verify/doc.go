// Package verify is the judge: it compares what Postgres committed with what
// Kafka shows, and says what is wrong with exactly-once delivery, if anything.
//
// It has two halves. The pure half is Evidence, facts in memory, and Check,
// which holds the facts against properties P0 to P14 and returns a Report. The
// other half collects the facts:
//
//   - ReadOracle: the committed history, from a second slot that is never
//     confirmed, cross-checked against the table;
//   - ReadLogs: every output partition, read twice. The read_uncommitted pass
//     keeps the markers, so it knows how each transaction ended; the
//     read_committed pass says what a consumer is shown;
//   - ReadCheckpoints: the checkpoint topic in order;
//   - ReadState: what became of letters, from the topic that says so;
//   - Sampler: slot and checkpoint against each other while the run goes on;
//   - Watch: a live read_committed consumer, for what only time can show.
//
// Invariants:
//
//   - The judge takes nothing from the relay but what is public: records,
//     headers, checkpoints. It shares the pgoutput decoder, the row decoder and
//     the checkpoint codec with the relay; what those could get wrong alike is
//     caught by the cross-checks that do not use them (the ids in the table,
//     the key sequence inside the payload, offsets and producer ids).
//   - Events and letters are matched to rows by (timeline, commit LSN,
//     ordinal); the id, the hash of the payload and the key must then agree.
//   - A replay is no delivery: it is matched to its letter by id and to the mark
//     in its own Kafka transaction, and only the order of a key that waits
//     behind its letter holds over both.
//   - A property that had nothing to look at is reported as unchecked, never as
//     passed in silence.
//
// Mutate plants one named fault into evidence. A test proves for each that the
// property responsible notices, on small and on random evidence: a checker that
// cannot fail proves nothing.
//
// It leaves to others: running the system, planting real faults (test/chaos),
// making load (test/load), and waiting until the run is quiet before reading.
package verify
