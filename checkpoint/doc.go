// Package checkpoint is the position of a relay: what it holds, how it is one
// Kafka record, and how it is read back.
//
// The position is the last record of every Kafka transaction that the relay
// commits, in a compacted topic of one partition that belongs to this relay
// alone. Kafka makes the events and the position atomic, so there is no step
// "store the position" that could be forgotten, reordered or retried alone.
//
// These keys live in that topic:
//
//	outbox-<name>/lane/0    the checkpoint
//	outbox-<name>/session   the barrier, written once by every session
//	outbox-<name>/init      the intent of `outbox-relay init`
//	outbox-<name>/audit/…   what a recovery did, one for each
//
// Invariants, checked where a record is encoded and again where it is decoded:
//
//   - seq grows by one with every commit; the position never goes back;
//   - pos.ordinal is 0 for a complete position. Otherwise the transaction that
//     commits at pos.commit_lsn is published up to its ordinal-th change
//     message, and pos.end_lsn is still the end of the transaction before it;
//   - keys are never 4 bytes long: log cleaners before KAFKA-14055 compared
//     user keys with those of control records.
//
// A checkpoint counts only when a read_committed reader has seen it. Load
// therefore reads up to the caller's own barrier record and not up to an end
// offset: for such a reader the end offset is the last stable offset, below
// which a committed checkpoint may still be hidden by somebody's open
// transaction (KAFKA-10167).
//
// The package leaves to others: producing the records (sink), deciding what a
// position means against a slot (internal/relay), creating the topic
// (internal/provision).
package checkpoint
