package eventstore

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/outbox"
)

// Store is the one interface. What an implementation cannot promise it says in
// its Capabilities, and storetest holds it to both sides of them.
type Store interface {
	// Append adds events to the end of a stream, all or none, and returns the
	// version of the last. If the stream is not at the expected version the
	// error is a *VersionConflict and nothing was written.
	//
	// An empty ID is replaced by a new UUIDv7. That happens in events itself,
	// so a caller who passes a slice (events...) and gets an error that leaves
	// the outcome open calls again with the same slice: if all the ids are in
	// the stream already, one behind the other, Append writes nothing and
	// returns the version of the last, whatever was expected. Only ids are
	// compared. If some of them are there, it is a *DuplicateEvent.
	Append(ctx context.Context, stream string, expected ExpectedVersion, events ...Event) (int64, error)

	// Load yields the events of a stream in order, those with a version above
	// after. A stream that does not exist has none. An error ends the sequence.
	Load(ctx context.Context, stream string, after int64) iter.Seq2[Recorded, error]

	// ReadAll returns up to limit events of all streams behind a position, in
	// the store's order; none if there are no more yet.
	ReadAll(ctx context.Context, from Position, limit int) ([]Recorded, error)

	// Subscribe gives the handler every event behind a position, first those
	// that are there and then each as it comes, one at a time, the events of
	// one stream in order of their versions. It waits out lost connections. It
	// returns when ctx ends, with its cause, or with the first error that the
	// handler returns or that waiting cannot mend.
	//
	// Delivery is at least once: start again at the Position of the last event
	// that was dealt with.
	Subscribe(ctx context.Context, from Position, handle Handler) error

	// Capabilities say what this store promises beyond the above.
	Capabilities() Capabilities
}

// TxAppender is a store whose Append can share the fate of the caller's own
// changes. Exactly the stores with the capability CallerTransaction have it.
type TxAppender interface {
	AppendTx(ctx context.Context, tx pgx.Tx, stream string, expected ExpectedVersion, events ...Event) (int64, error)
}

// Handler deals with one event of a subscription.
type Handler func(ctx context.Context, ev Recorded) error

// Capabilities are what the stores differ in. The tests hold a store to what
// it claims and to what it denies.
type Capabilities struct {
	// CallerTransaction: the store is a TxAppender.
	CallerTransaction bool
	// TotalOrder: ReadAll has one order over all streams, the same for every
	// reader at any time. Without it only the events of one stream are in
	// order.
	TotalOrder bool
	// TotalSubscribe: Subscribe delivers in that order.
	TotalSubscribe bool
	// ExactResume: a subscription that starts at the Position of an event goes
	// on with the event behind it. Without it some before may come again.
	ExactResume bool
	// UniqueIDs: an id is refused if another stream has it.
	UniqueIDs bool
	// DuplicateWindow is how far back a repeated id is noticed, counted in
	// events of all streams that share a partition; 0 is for ever.
	DuplicateWindow int
	// NeedsKafka: Append and Load fail while Kafka is down.
	NeedsKafka bool
}

// Event is what a caller appends.
type Event struct {
	ID          string // a UUID; "" is filled with a UUIDv7
	Type        string // what happened
	Payload     []byte // kept byte for byte; nil is the same as empty
	ContentType string // media type; "" is application/octet-stream
	Headers     []outbox.Header
	TraceParent string // W3C
	TraceState  string // W3C
}

// Recorded is an event as a store has it.
type Recorded struct {
	Event
	Stream   string
	Version  int64     // in the stream, from 1, without gaps
	Position Position  // where to go on behind it; "" if Load cannot know
	Time     time.Time // when it was appended, in milliseconds, by the clock of whoever stored it
}

// ExpectedVersion is what a stream has to be at for an Append to happen. The
// zero value is NoStream, so that who forgets to say collides with what is
// there rather than write over somebody's head.
type ExpectedVersion int64

const (
	// Any appends at whatever version the stream is.
	Any ExpectedVersion = -1
	// NoStream appends only the first events of a stream.
	NoStream ExpectedVersion = 0
)

// Exact expects the stream to be at version n; Exact(0) is NoStream.
func Exact(n int64) ExpectedVersion { return ExpectedVersion(n) }

func (v ExpectedVersion) String() string {
	switch v {
	case Any:
		return "any"
	case NoStream:
		return "no stream"
	}
	return fmt.Sprintf("version %d", int64(v))
}

// Position is a place in all streams of one store, to be saved and given back
// to the same store. Start is before the first event. What it says inside is
// the store's matter: a log in Postgres has one number line, a topic has one
// per partition. So positions can be compared for equality only.
//
// It is a text because users keep it in tables and files; stores parse it once
// per call, never per event.
type Position string

// Start is before the first event.
const Start Position = ""
