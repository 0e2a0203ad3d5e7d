// Package slots looks at replication slots and changes them, for people.
//
// Its job: say in SQL that can be repeated in psql what a slot holds, what
// follows if nothing is done, and what a change of it would cost; and carry the
// change out only for somebody who has repeated the cost.
//
// Invariants: nothing here drops or moves a slot that somebody holds. A change
// that takes events away from the relay has a Price, which names both ends of
// the range; without the same price in the caller's hand it is refused. What is
// carried out is conditional on what was looked at: a slot that has moved in
// between is left alone. If Kafka cannot be asked how far the relay has come,
// everything that Kafka could be lacking is taken to be lacking.
//
// It leaves to others: the relay's own reading of its slot (replication),
// watching it (internal/guard), and making a new one together with its first
// checkpoint (internal/provision).
package slots
