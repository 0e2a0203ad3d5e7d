// Package dlq holds dead letters: what becomes of a row that can be no event,
// or of an event that a consumer cannot handle, and how it goes on from there.
//
// # Letters
//
// A letter is the record that the row would have been, with its key, value and
// headers as they are, and an envelope of further headers that says what went
// wrong. The envelope uses Kafka Connect's names where Connect has one
// (__connect.errors.*) and outbox.dlq.* where it has none. Relays and consumers
// write the same letters to the same topic.
//
// A letter always fits the limit it is built for, whatever the row held; what
// is left out is named, counted and hashed in the envelope. The last header is
// outbox.ckpt, without value until the relay stamps it, as on every other
// record. No header of the envelope holds payload, key or header values. Parse
// reads back what Record wrote.
//
// # Marks
//
// Letters are never changed. What became of one is a Mark in the state topic,
// which is compacted: key is the event's id, for a consumer's letter with
// "@<group>" behind it. A letter is open unless the newest mark of its key names
// its own offset, or a higher one in the same partition: a newer letter of an
// event stands for the older ones. A mark with the action deferred leaves its
// own letter open (Mark.Closes).
//
// # Replay
//
// One batch is one Kafka transaction: the records, and a mark for each letter.
// So a letter is sent if and only if it is closed, and no moment at which a
// process may die lies between the two. The steps of a session:
//
//  1. Fence. InitProducerID for "outbox-<name>-tools", which all tools of a
//     relay share. It ends what a predecessor has open, in one way or the other,
//     and answers when the markers of that are written. Who was fenced can
//     commit nothing any more (ReplayFenced).
//  2. Settle. Ask for the end of the state topic, its high watermark and not
//     its last stable offset, and read read_committed up to there, waiting for
//     transactions that are open below. Every mark that any tool has ever
//     committed is read then.
//  3. Decide, for each letter of the batch, by these marks alone: one that is
//     closed is passed over, whatever was known when it was chosen.
//  4. Produce records and marks, require every acknowledgement, commit, and
//     read the marks back. A letter is reported as done only after that.
//
// An error in any step ends the session, and the next one begins with the
// fence: no answer is interpreted, a commit in doubt least of all. That the
// transactional id is shared makes a second replay, a purge and the scheduler
// exclude each other: the later one wins, and the earlier one gives up.
//
// The relay writes marks too (released) without that fence, but only for
// parked letters of keys that it holds, and those the tools leave alone.
//
// A broker that refuses a transaction for the sake of a record has it halved,
// down to the single letter, which then stays open with the reason reported.
// The later letters of its topic and key stay with it. Letters go in the order
// in which their rows were committed.
//
// # The scheduler
//
// Writers of letters that may heal by themselves say when to try again
// (Schedule.Plan). The Scheduler reads both topics on, keeps a line for each
// letter that waits, and begins a session only when one is due. What is refused
// is deferred with a mark, and when its attempts are used up, deferred without
// a time: it is a person's then.
//
// # What it costs
//
// Letters are streamed; marks are kept, about 120 bytes for each event that ever
// was a letter; of chosen letters some 64 bytes each are kept until their turn
// comes, and a batch of at most 500 letters and about 16 MiB is held whole.
// Every command reads both topics from their beginning.
//
// The package leaves to others when a row is a letter (sink, outbox, consumer),
// the Kafka transaction that carries it together with a checkpoint, and the
// keys that are parked (internal/relay), how records are partitioned (sink), and
// who may replay (cmd).
//
// Sources: KIP-98 and KIP-360 for what a fence promises, KIP-298 for the names
// of the envelope, KAFKA-10167 for why an end offset of a read_committed reader
// is no proof.
package dlq
