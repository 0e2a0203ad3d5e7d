// Package consumer reads the topics that the relay writes, and calls a handler
// for each event.
//
// It is a member of a consumer group: cooperative, read_committed, static if an
// InstanceID is given. It parses the relay's headers, keeps the order per key
// while different keys run side by side, tries failing events again, makes dead
// letters of those that go on failing, and knows three ways of doing nothing
// twice: an inbox table in the handler's own transaction ([Inbox]), a Kafka
// transaction around what is consumed and produced ([Config.Transform]), and a
// high-water mark of positions ([HighWater]).
//
// Invariants. Committed is, per partition, the end of the unbroken run of
// records that are done; done is a record whose handler returned nil, that was
// skipped by a rule of this package, or whose letter or retry copy Kafka has
// acknowledged. Two events of one key are never handled at the same time, nor
// in another order than the partition's, as long as they stay in place; a retry
// topic gives that up. A partition is given away only after the calls that run
// for it have ended or have used up Config.DrainTimeout. Memory is bounded by
// Config.MaxInFlight and MaxInFlightBytes. New starts nothing; everything that
// Run starts has ended when it returns, except a handler that ignores its
// context.
//
// It leaves to others what the events mean, where letters are read and replayed
// (outbox-relay dlq), and the creation of topics.
//
// Only this package and outbox are promised API.
package consumer
