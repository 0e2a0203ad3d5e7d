// Package demo is the product in one command: real Postgres, a Kafka protocol
// broker, the relay, load, trouble on purpose, and a check of the result.
//
// Its job is to show the claim to somebody who has neither Postgres nor Kafka
// at hand, and to fail if the claim does not hold. A generator commits and
// rolls back transactions through outbox.Append; the relay runs as a child
// process of the same binary (`serve`), so that it is the code path of
// production and can be killed with SIGKILL; a witness reads the topics under
// read_committed and compares them with the ledger of what was committed.
//
// Invariants:
//   - The ledger knows every row before its transaction commits, so a record
//     seen is either accounted for or a finding. Nothing is sampled.
//   - The verdict is taken after the relay has stopped and both consumers have
//     read to the end of every partition, so nothing can arrive after it.
//   - No process and no folder outlives the demo. Postgres is owned by a
//     supervisor child that stops it and removes its folder at the end of its
//     standard input, which also happens when the demo is killed.
//   - A database or a cluster that was given, not made, gets names of its own
//     for everything the demo creates, and loses them at the end.
//
// It leaves the relay to the relay: nothing here decodes WAL, writes events or
// repairs anything. It also leaves timing claims to the benchmarks: figures
// measured against the in-process broker say so.
package demo
