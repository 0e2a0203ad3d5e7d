// Package sink turns outbox records into one Kafka transaction at a time.
//
// Its job has two halves. The Router makes a record of a row: topic, key,
// headers, timestamp, and every rule that Kafka would enforce later, checked
// before Kafka sees it, so that a poison row costs no aborted transaction. The
// Producer owns the transactional client: it fences predecessors, writes the
// barrier, and then produces, seals, commits and reads back.
//
// Invariants, which the code can be reviewed against:
//
//   - The checkpoint is the last record of every transaction, from the same
//     producer, and part of the signature of Commit: it cannot be left out.
//   - EndTxn(commit) is sent only if every record of the transaction was
//     acknowledged, the checkpoint included, and their number is the number
//     added. The client itself would commit what succeeded.
//   - No produce is ever cancelled or timed out on its own. Deadlines give up
//     the whole transaction.
//   - An error of Commit says nothing about the outcome. EndTxn is not retried
//     by the client, so that doubt is seen as doubt; the next session's fence,
//     barrier and read decide.
//   - A Producer is used for one session. Nothing in it survives an error.
//   - The limit a record is checked against (Catalog) is the limit that the
//     client is given, or a record could pass here and fail there.
//
// The package leaves to others: the order of steps (internal/relay), the
// meaning of the checkpoint (checkpoint), the form of dead letters (dlq), how
// to reach the brokers (internal/kafka).
//
// Sources: KIP-98 (transactions), KIP-360 (producer recovery), KIP-447, KIP-890
// (transaction.version 2, one epoch a transaction), franz-go's notes on
// EndTransaction.
package sink
