// Package replication turns the bytes of a logical replication slot into
// committed transactions. It is the sole owner of the replication connection.
//
// Its job: find the primary, probe it, take the slot, decode pgoutput
// (protocol version 1, so that a transaction arrives whole and committed),
// drop what the checkpoint covers, hand the rest over in commit order, and
// keep Postgres informed.
//
// Invariants, which the code can be reviewed against:
//
//   - START_REPLICATION is always sent with 0/0. The server accepts a start
//     LSN from the future and then drops lower commits without a word, so the
//     filtering is ours (Resume).
//   - A transaction is dropped iff the start of its commit record is below the
//     checkpoint's end. Row LSNs are never looked at: they repeat, and they
//     interleave between transactions.
//   - The ordinal counts every change message (insert, update, delete,
//     truncate) of a transaction from 1, before any filter, so configuration
//     cannot shift it. Re-decoding the same WAL gives the same ordinals.
//   - A status update carries write = flush = apply = the confirmed position,
//     never zero and never the received position: pglogrepl replaces a zero
//     flush by the write position, and Postgres forgets WAL below flush.
//   - The confirmed position moves only through Confirm, never back, and
//     starts at the slot's own confirmed_flush.
//   - Status updates go out while the consumer of Next is slow: a full queue
//     stops the reading, not the ticking. A slow Kafka never costs the slot.
//   - What cannot be decoded halts (fault.WALDecode). Nothing is skipped.
//
// One goroutine, Run, touches the replication connection; a second one inside
// Run watches the server over a plain connection to the same host, so that a
// Postgres that wants to stop is noticed even while nobody reads the stream.
//
// The package knows nothing of Kafka, of records or of checkpoints. What a
// position means against the slot is decided in internal/relay.
//
// Sources: https://www.postgresql.org/docs/current/protocol-replication.html,
// https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
package replication
