// Package eventstore appends events to streams, with a version that a writer
// can insist on, and lets readers follow them: three stores behind one
// interface.
//
//   - [Database] keeps events in Postgres. Event and outbox row are written in
//     one transaction, which may be the caller's.
//   - [Kafka] keeps them in a topic and needs no database.
//   - [Hybrid] is a Database whose subscribers read from the topics of the
//     relay, and from the database while those do not have everything.
//
// # Invariants
//
// The versions of a stream are 1, 2, 3 ... without a gap, each given once,
// whoever appends at the same time. An Append happens as a whole or not at
// all. Which of the two is found out by reading, never inferred from an error.
//
// Database: a row of the log is read only when every transaction that could
// still commit in front of it has ended. seq is handed out at the insert and
// not at the commit, so a reader that went by seq alone would pass rows that
// become visible later and never come back for them.
//
// Kafka: one transactional id per partition is the lease. Taking it shuts out
// every earlier holder and ends what it left open; everything committed is
// read after that and before anything is decided.
//
// Hybrid: exactly the events up to a position of the log, and a bounded set
// above it, have been delivered. The position rises when the database's count
// agrees.
//
// # What is left to others
//
// Payloads are bytes: encoding, schemas and upcasting are the caller's, and so
// is snapshotting. Events cannot be changed or deleted through a store. The
// positions of subscribers are kept by the subscribers. Publishing what the
// Database writes is the relay's matter.
package eventstore
