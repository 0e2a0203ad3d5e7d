// Package storetest is the suite that every event store has to pass. It runs
// on the three stores of eventstore, on an in-process broker and on real
// servers, and can run on a store of anybody else's.
//
// For everything that a store's Capabilities promise there is a test that it
// does, and, but for TotalSubscribe and ExactResume, a test that it does not
// do what they do not promise: a capability that is claimed or denied wrongly
// fails. Whether those two are denied with reason shows only with the relay or
// the broker at a given place.
//
// It knows stores by their interface alone. Such things, and faults that need
// a view inside (a commit whose answer is lost, a transaction that commits
// late), are tested beside the store.
package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/outbox/eventstore"
)

// Rig is one empty log and what can be done around it.
type Rig struct {
	// Open returns another handle on the log, as another process would have
	// it. It is closed at the end of the test by whoever made it.
	Open func(t testing.TB) eventstore.Store
	// Begin starts a transaction for a store with CallerTransaction.
	Begin func(t testing.TB) pgx.Tx
	// Rows counts the outbox rows of a stream, published or not, for a store
	// with CallerTransaction.
	Rows func(t testing.TB, stream string) int
	// KafkaDown and KafkaUp make Kafka unreachable and bring it back.
	KafkaDown, KafkaUp func(t testing.TB)
}

// Run runs the suite. fresh is called once per test and returns an empty log;
// it needs two partitions or more where there are any, and a DuplicateWindow of
// at most 100 where it is not for ever.
func Run(t *testing.T, fresh func(t testing.TB) Rig) {
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, r Rig)
	}{
		{"what was appended is loaded", testRoundTrip},
		{"expected versions", testExpected},
		{"appending again", testAgain},
		{"ids in two streams", testUniqueIDs},
		{"how far back an id is known", testDuplicateWindow},
		{"events that no store takes", testInvalid},
		{"all streams in pages", testReadAll},
		{"one order of all streams", testTotalOrder},
		{"positions of others", testPositions},
		{"subscription", testSubscribe},
		{"subscription resumes", testResume},
		{"subscription ends", testSubscribeEnds},
		{"8 appenders, any version", testConcurrentAny},
		{"8 appenders, exact version", testConcurrentExact},
		{"8 appenders, streams of their own", testConcurrentStreams},
		{"the caller's transaction", testTransaction},
		{"without Kafka", testWithoutKafka},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, fresh(t)) })
	}
}

// patience bounds what has to happen by itself. It is long because the
// machines of tests are slow, and never waited out unless something is broken.
const patience = 30 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, fmt.Errorf("not within %v", patience))
	t.Cleanup(cancel)
	return ctx
}
