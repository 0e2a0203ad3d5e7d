package dlq

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/outbox"
)

// OmittedError says that a letter does not hold the whole record, so that a
// replay has to take it from the table.
type OmittedError struct {
	ID string
	Omitted
}

// Error names what is not there.
func (e *OmittedError) Error() string {
	return fmt.Sprintf("letter %.100q lacks parts of its record: payload %t, key %t, headers left out %d, headers cut %d",
		e.ID, e.Payload, e.Key, e.UserHeaders, e.CutHeaders)
}

// Replay returns the record that the letter's event would have been, marked as
// a replay. The partition that it asks for, if any, is l.Partition: the caller
// has the partitioner. It has no outbox.ckpt: that is the relay's to stamp, and
// says in which of its transactions a record is. The error is an
// *OmittedError.
func (l *Letter) Replay(now time.Time) (*kgo.Record, error) {
	if o := l.Omitted; o.Payload || o.Key || o.UserHeaders > 0 || o.CutHeaders > 0 {
		return nil, &OmittedError{ID: l.ID(), Omitted: o}
	}
	return &kgo.Record{Topic: l.Topic, Key: l.Key, Value: l.Value, Timestamp: l.Timestamp, Headers: l.replayed(l.Headers, now)}, nil
}

// replayed puts the marks of a replay behind the headers of an event.
func (l *Letter) replayed(headers []kgo.RecordHeader, now time.Time) []kgo.RecordHeader {
	h := slices.Clone(headers)
	add := func(name, value string) { h = append(h, kgo.RecordHeader{Key: name, Value: []byte(value)}) }
	add(outbox.HeaderReplayOf, l.ID())
	add(outbox.HeaderReplayed, formatTime(now))
	add(outbox.HeaderAttempts, strconv.Itoa(l.Attempts))
	if l.Group != "" {
		add(outbox.HeaderGroup, l.Group)
	}
	return h
}
