package dlq

import (
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/outbox"
)

// Reason says what kind of fault made a letter.
type Reason string

// The reasons. Their texts are public: tools filter on them.
const (
	Decode            Reason = outbox.ReasonDecode
	Schema            Reason = "schema"
	TooLarge          Reason = "too_large"
	InvalidTopic      Reason = "invalid_topic"
	ReservedHeader    Reason = "reserved_header"
	PartitionRange    Reason = outbox.ReasonPartitionRange
	UnauthorizedTopic Reason = "unauthorized_topic"
	Refused           Reason = "refused"
	Manual            Reason = "manual"
	Parked            Reason = "parked"  // held back behind an earlier letter of its key
	Handler           Reason = "handler" // a consumer's handler gave up
)

// Reasons are all of them.
func Reasons() []Reason {
	return []Reason{Decode, Schema, TooLarge, InvalidTopic, ReservedHeader, PartitionRange, UnauthorizedTopic, Refused, Manual, Parked, Handler}
}

// Stage says where on its way the row was stopped, in Connect's words.
type Stage string

// The stages.
const (
	ValueConverter  Stage = "VALUE_CONVERTER"
	KeyConverter    Stage = "KEY_CONVERTER"
	HeaderConverter Stage = "HEADER_CONVERTER"
	Transformation  Stage = "TRANSFORMATION"
	KafkaProduce    Stage = "KAFKA_PRODUCE"
	TaskPut         Stage = "TASK_PUT" // a consumer's handler
)

// StageOf returns the stage that a reason belongs to.
func StageOf(r Reason) Stage {
	switch r {
	case Decode, Schema:
		return ValueConverter
	case ReservedHeader:
		return HeaderConverter
	case TooLarge, Refused, Parked:
		return KafkaProduce
	case Handler:
		return TaskPut
	}
	return Transformation
}

// Letter is a dead letter. Key, Value, Headers, Topic, Partition and Timestamp
// are those of the record that the row would have been.
type Letter struct {
	Key       []byte
	Value     []byte
	Headers   []kgo.RecordHeader // without outbox.ckpt
	Topic     string             // the topic intended, legal or not
	Partition outbox.Partition   // the partition the row asked for
	Timestamp time.Time

	Reason    Reason
	Stage     Stage
	Component string    // room that refused the row
	Code      string    // "OBX-2002"
	Message   string    // never holds payload, key or header values
	Attempts  int       // how often the event has become a letter, this one included
	FirstAt   time.Time // first attempt, in microseconds
	At        time.Time // when the letter was written, in microseconds
	// NextAt is when the scheduler replays the letter, in microseconds; zero:
	// it waits for a person. Backoff is the wait that led to it, whole seconds.
	NextAt  time.Time
	Backoff time.Duration

	// Group is the consumer group whose letter this is; "" is the relay's.
	// Where it failed to handle a record, that record's place is the source.
	Group           string
	HasSource       bool
	SourcePartition int32
	SourceOffset    int64

	Relay        string // name of the relay
	Lane         int
	RelayVersion string

	// Checkpoint is the value of outbox.ckpt; nil before the stamp.
	Checkpoint []byte
	// Omitted says what was left out of the letter to make it fit.
	Omitted Omitted
}

// Omitted counts what a letter had to leave behind. The whole is still in the
// table, under the id in the letter's headers.
type Omitted struct {
	Payload       bool
	PayloadSHA256 string // hex
	PayloadBytes  int
	Key           bool
	KeySHA256     string // hex
	UserHeaders   int    // left out
	CutHeaders    int    // cut short
}

// New makes a letter of a record that was refused, and of the error that says
// why: a *fault.Error of class Reject or an *outbox.RowError. Both times are
// now; the names of the relay are the caller's to set, and the partition that
// the row asked for.
func New(rec *kgo.Record, cause error, now time.Time) Letter {
	l := Of(rec, now)
	var row *outbox.RowError
	if errors.As(cause, &row) {
		code := fault.RowDecode
		if row.Reason == outbox.ReasonPartitionRange {
			code = fault.RowPartition
		}
		l.Reason, l.Component, l.Code, l.Message = Reason(row.Reason), "outbox", code.ID, row.Error()
	} else {
		f := fault.As(cause)
		// The names of the codes in the range of rows are the reasons.
		l.Reason, l.Component, l.Code, l.Message = Reason(f.Code.Name), "sink", f.Code.ID, f.Detail
	}
	l.Stage = StageOf(l.Reason)
	return l
}

// Of begins a letter with what the record says about itself. A record that was
// a letter before counts on from there. What an envelope may hold is not taken
// over with the headers, or the letter would read as two.
func Of(rec *kgo.Record, now time.Time) Letter {
	now = now.UTC().Truncate(time.Microsecond)
	l := Letter{
		Key: rec.Key, Value: rec.Value, Topic: rec.Topic, Timestamp: rec.Timestamp,
		Attempts: 1, FirstAt: now, At: now,
		Headers: make([]kgo.RecordHeader, 0, len(rec.Headers)),
	}
	for _, h := range rec.Headers {
		switch {
		case h.Key == outbox.HeaderAttempts:
			if n, err := strconv.ParseInt(string(h.Value), 10, 32); err == nil && n > 0 && n < math.MaxInt32 {
				l.Attempts = int(n) + 1
			}
		case h.Key == outbox.HeaderCheckpoint || h.Key == outbox.HeaderReplayed || ofEnvelope(h.Key):
		default:
			l.Headers = append(l.Headers, h)
		}
	}
	return l
}

// ID returns the event's id, which survives whatever is left out, unless it
// alone is larger than a header may be here.
func (l *Letter) ID() string { return l.Header(outbox.HeaderID) }

// Header returns the value of the event's first header of this name.
func (l *Letter) Header(name string) string {
	for _, h := range l.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}
