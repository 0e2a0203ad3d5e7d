// Package relay is the pump: the only code that knows the order of steps.
//
// A session is
//
//	take the slot                          OpenSource
//	fence, barrier, read the checkpoint    OpenSink
//	compare both                           reconcile
//	stream from there                      Source.Resume
//
// and then, for each group of source transactions, until something fails:
//
//	Begin, Add every record                one Kafka transaction
//	Commit                                 the checkpoint is its last record
//	ReadBack                               a read_committed reader has seen it
//	Confirm                                the slot may forget
//
// From this order follow the guarantees:
//
//   - Events, dead letters and position are atomic, so a restart resumes
//     exactly behind what is visible: no loss, no duplicate.
//   - confirmed_flush_lsn <= checkpoint, always: Kafka knows first. A slot that
//     is ahead of the checkpoint is therefore never explained away (Gap).
//   - No error of a commit is interpreted and nothing is repaired in place. Any
//     failure ends the session; the next one fences, writes a barrier and reads
//     what happened. Rows are not replayed from memory across sessions: the
//     slot sends them again. Start is recovery.
//   - The slot is taken before the producer is fenced, or a standby would kill
//     a healthy leader.
//   - The next Begin comes after the ReadBack. This costs nothing: the markers
//     of a transaction have to be written before the next may produce.
//
// While a commit is under way the next group is read, translated and encoded
// in memory (gathering), bounded by Limits. A transaction of the source is cut
// over several Kafka transactions only when it alone is over the limits; the
// position then carries the ordinal of its last published change.
//
// Between the taking of a group and its transaction stands the triage, in the
// order of the stream: a row that a broker has refused before becomes a letter,
// and so does, with Letters.Park, every row whose key has a letter that is still
// open. Which keys are parked is part of the checkpoint, so rows, letters and
// the set change together or not at all. Parked letters are released by the
// relay alone, between two groups, in a transaction with the checkpoint that
// parks the key no longer (release.go): rows of the key are either in it or
// come after it.
//
// A record that a broker refuses is searched for between two sessions, by
// halves, in transactions that are always aborted (refuse.go). What is learned
// is a place in the history; the slot sends the rows again, and the triage
// makes a letter of the one at that place.
//
// A failure of class Halt ends Run with that error. The package then holds
// neither the slot nor a producer; whether the process stays up to say so is
// the caller's decision. Everything of class Retry leads to another session,
// after a backoff: also being fenced, which means going back to standby.
//
// Kafka sessions are opened through a breaker (internal/breaker). While it is
// open nothing is opened, and the slot is still held: Source.Run goes on telling
// Postgres that somebody is there, and leaves a Postgres that wants to stop. But
// a replica that cannot reach Kafka must not keep the slot from one that can. So
// the session ends once whenever the breaker opens, the first time and after
// each half-open that fails. That offers the slot: standbys look several times a
// second, and this replica not before a second has passed (offer). If nobody
// wanted it, it is taken and held again, until the next opening or until probes
// have closed the breaker. A standby whose breaker is open is reluctant
// (replication.Config.Reluctant): it leaves a slot that gets free to others
// first. So with one replica and no Kafka the slot is held but for a second or
// two in every KAFKA_BREAKER_RESET; with two, the one that can deliver has it
// within a second of the other's first opening.
//
// The package holds no SQL, no formats and no Kafka codes: those are in
// replication, outbox, sink, checkpoint and dlq. It declares the two
// interfaces that it needs, Source and Sink, so that a test can drive the
// order of steps without sockets.
package relay
