// Package harness is the test rig: real Postgres, real Apache Kafka, wires
// that can be cut, and the relay as a child process.
//
// Its job is to give a test the servers it asks for, to break them on command
// and to leave nothing behind. Servers are child processes of the test binary
// on loopback ports; there are no containers.
//
// Invariants:
//   - No server outlives the test binary, however that ends: the kernel
//     delivers the death of the parent to the child (see process_linux.go).
//   - A port once chosen is kept through kill and start, so that clients find
//     a restarted server where it was.
//   - Nothing is waited for by sleeping a fixed time: a start returns when the
//     server answers, a stop when the process has gone.
//   - What is not installed skips the test and says why; under CI=true or
//     OUTBOX_TEST_REQUIRE=1 it fails it.
//
// Isolation is by name on shared servers (one database and one topic prefix
// per test) and by process where a test kills: such a test starts its own
// server with NewKafka or NewPostgres.
//
// The environment: OUTBOX_TEST_KAFKA (brokers) and OUTBOX_TEST_POSTGRES (URL)
// replace the shared servers, OUTBOX_TEST_PG_BIN names a folder of Postgres
// binaries, OUTBOX_TEST_CACHE the folder for Kafka's jars, and
// OUTBOX_TEST_SKIPPED a file to which each skipped test adds a line.
//
// It leaves to the tests what is right: it checks no record and no row.
package harness
