// Package cleanup removes rows of the outbox table that are in Kafka and old.
//
// Its job: delete rows in small transactions, or make and drop partitions, so
// that the table stays bounded without a hand on it.
//
// Deleting a row takes no event from the stream, which comes from the WAL. It
// takes away what a lost range is found from. So a row goes only if both hold:
// it is older than the retention, and its transaction lies wholly below the
// position that Postgres has confirmation for and that Kafka has a checkpoint
// of.
//
// Rows do not know the LSN of their commit, and neither created_at nor the
// order of transaction ids is the order of commits: a transaction that has been
// open for days commits today. The proof goes through a Horizon instead. Take a
// snapshot; every transaction below its xmin has ended. Then read the insert
// position of the WAL: the commit record of each of those lies below it. As
// soon as the relay has confirmed that position, all rows whose xmin is below
// the horizon's are in Kafka. Subtransactions have higher ids than their
// parents, and prepared transactions count as running, so both are on the safe
// side. Ids are compared through age(), which knows of wrap-around; a row whose
// id has wrapped is kept.
//
// A partition is detached first, which nothing is lost by, and dropped when no
// row in it is above the horizon, with everybody locked out: a row that a late
// transaction has put there stays.
//
// It leaves to others: how far Kafka is (the caller asks), and partitions that
// pg_partman manages, of which it only speaks.
package cleanup
