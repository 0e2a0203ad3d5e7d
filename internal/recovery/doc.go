// Package recovery brings a relay back whose slot or checkpoint is lost, or whose
// database has another history than before. It is one procedure for all of it:
//
//  1. Survey what is there: server, slot, checkpoint topic. Diagnose says what is
//     wrong, what of it a person has to confirm by repeating numbers, and what
//     becomes of the slot.
//  2. Take the slot, or make one with the snapshot of its beginning, and hold it;
//     fence every other producer; write the barrier and read the checkpoint.
//     This is the order of a session of the relay, because it is one
//     (internal/relay, Refill).
//  3. Find the rows of the table that are in no topic and that the slot will not
//     send (internal/audit, Find).
//  4. Publish them in Kafka transactions, each with a checkpoint that says that a
//     recovery is under way.
//  5. Write the checkpoint from which a relay goes on.
//
// Invariants:
//
//   - The ids in the topics are the truth. Nothing is remembered anywhere else,
//     so a recovery may be killed at any moment and run again: rows that were
//     published are found, and are not published again.
//   - Only rows are published that no slot will send: those in the snapshot of a
//     slot that was just made, or in a later snapshot less what the slot is still
//     to send, which is read from a temporary copy of it.
//   - Before anything is published the slot is held and every other producer is
//     fenced. From the first row to the last checkpoint a relay that streams
//     refuses the checkpoint (RecoveryUnderWay).
//   - A slot is dropped only if it is lost, if its history is not that of the
//     server, or if a person has asked for it.
//   - What a recovery decided is kept in the checkpoint topic under a key of its
//     own, with the words that a person repeated.
//
// A row that was recovered has a position of the recovery's own, because the
// table does not say where its transaction committed: just before the slot begins,
// and numbered in the order in which rows are published. So positions go on
// growing within a partition. The order is as near to that of the commits as the
// table tells: commit timestamps where the server keeps them
// (track_commit_timestamp), else created_at, then the transaction id.
//
// What cannot be found: rows that were deleted from the table, and, where a topic
// has deleted what is old, whether old rows were published. Both are told.
//
// It leaves to others: the transaction and what becomes of rows that can be no
// event (internal/relay), comparing (internal/audit), printing (cmd).
package recovery
