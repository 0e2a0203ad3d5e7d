// Package crash names the places where a test wants the process to die.
//
// A build with the tag `crashpoints` reads OUTBOX_CRASH=name:n and sends itself
// SIGKILL when the named point is passed for the n-th time: no deferred
// function runs, no buffer is flushed, the kernel closes the sockets. That is
// what a power cut or the OOM killer does. In every other build Point is an
// empty function that the compiler removes, so the points may stand on the hot
// path. The points are the rows 1-9 of the fault table in docs/design.md.
package crash

// The points, in the order in which a session passes them.
const (
	SlotAcquired    = "slot-acquired"    // the slot is ours, nothing is fenced yet
	ProducerFenced  = "producer-fenced"  // InitProducerID answered, no barrier yet
	BarrierWritten  = "barrier-written"  // barrier committed, not read yet
	GroupOpen       = "group-open"       // rows produced into an open Kafka transaction
	CheckpointAdded = "checkpoint-added" // checkpoint produced, nothing flushed
	BeforeEnd       = "before-end"       // all acknowledged, EndTxn not sent
	AfterEnd        = "after-end"        // EndTxn answered, nothing read back
	ReadBack        = "read-back"        // read back, slot not told
	Confirmed       = "confirmed"        // the slot position is set, maybe not sent
	StatusSent      = "status-sent"      // Postgres was told
	CutCommitted    = "cut-committed"    // a part of a cut transaction is in Kafka
	LetterAdded     = "letter-added"     // a dead letter is in the open transaction
	DrainStarted    = "drain-started"    // SIGTERM seen, group still open
	DrainDone       = "drain-done"       // last commit done, CopyDone not sent

	// The points of `recover`, which passes those of a session as well.
	RecoverySlotDropped = "recovery-slot-dropped" // the lost slot is gone, there is no new one
	RecoverySlotMade    = "recovery-slot-made"    // the new one is there, and Kafka does not know
	RecoveryBegun       = "recovery-begun"        // the checkpoint says that a recovery is under way
	RecoveryGroup       = "recovery-group"        // a group of rows was read back
	RecoveryEnded       = "recovery-ended"        // the last checkpoint was read back
)

// RecoveryPoints lists those of `recover`.
func RecoveryPoints() []string {
	return []string{RecoverySlotDropped, RecoverySlotMade, RecoveryBegun, RecoveryGroup, RecoveryEnded}
}

// Points lists every point of a session, for tests that visit them all.
func Points() []string {
	return []string{
		SlotAcquired, ProducerFenced, BarrierWritten, GroupOpen, CheckpointAdded, BeforeEnd, AfterEnd,
		ReadBack, Confirmed, StatusSent, CutCommitted, LetterAdded, DrainStarted, DrainDone,
	}
}
