package consumer

import (
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/outbox"
)

// Event is one record, its headers read. A record that the relay did not write
// has the fields of Kafka and whatever headers it does share.
//
// Texts, Key, Payload and the values of Headers are views of the record's own
// memory: strings.Clone what outlives the handler by much, and change nothing.
type Event struct {
	ID            string // identity of the row; the same however often it is delivered
	AggregateType string
	AggregateID   string
	Type          string
	Key           []byte
	Payload       []byte // nil: a tombstone
	ContentType   string
	SchemaVersion string
	Headers       []outbox.Header // the writer's own
	TraceParent   string
	TraceState    string

	// Where the event was first read. An event that comes back through the
	// retry topic keeps the place it had.
	Topic     string
	Partition int32
	Offset    int64

	Timestamp  time.Time // of the record
	CommitTime time.Time // of the source transaction; zero if unknown
	Position   Position
	Replayed   bool // it was a dead letter, and somebody sent it again
	Attempt    int  // 1-based; goes on counting through the retry topic, and starts anew with a replay

	group      string    // consumer group that a replay is meant for
	replayOf   bool      // the record names the letter that it was
	recovered  bool      // made from the table: its position is the recovery's own
	replayedAt string    // tells one replay of an event from the next
	failed     int       // attempts before this delivery, on the retry topic
	firstAt    time.Time // of them
	due        time.Time // not before; only on the retry topic
	bad        string    // name of the header that cannot be read
	foreign    bool      // not written by the relay
}

// Position is where the row stands in the history of its source. Source,
// Timeline, LSN and Ordinal name one row for ever; the last three grow in the
// order of the commits.
type Position struct {
	Source   string // <database>/<slot>
	Timeline int32
	LSN      pglogrepl.LSN // of the commit
	Ordinal  uint64        // which change of its transaction, from 1
}

// IsZero tells whether the record carried no position.
func (p Position) IsZero() bool { return p == Position{} }

// Identity is what tells two deliveries of the same event: the ID, or, for a
// record without one, the place it was first read from.
func (e *Event) Identity() string {
	if e.ID != "" {
		return e.ID
	}
	return place(e.Topic, e.Partition, e.Offset)
}

func place(topic string, partition int32, offset int64) string {
	b := make([]byte, 0, len(topic)+32)
	b = append(b, topic...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(partition), 10)
	b = append(b, '/')
	b = strconv.AppendInt(b, offset, 10)
	return string(b)
}
