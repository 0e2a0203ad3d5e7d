package audit

import (
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/holdwall/outbox-relay/checkpoint"
	"github.com/holdwall/outbox-relay/internal/fault"
)

// Report is what a comparison found.
type Report struct {
	Since         time.Time // what was created before was left out; zero: nothing
	Snapshot      pglogrepl.LSN
	Checkpoint    checkpoint.Position
	CheckpointSeq uint64

	Rows  int64 // of the table
	Found int64 // of which that are in Kafka, as events or letters

	// Rows that are not in Kafka, and need not be.
	Pending   int64 // still to come: committed behind the checkpoint
	Undecided int64 // still to come, or missing
	Expired   int64 // from before the first record that the topic has left
	// Undecidable says why rows are undecided.
	Undecidable string

	// Records of the topics.
	Events          int64 // replays among them
	Replays         int64
	Letters         int64 // of the relay
	ConsumerLetters int64
	Foreign         int64 // not of a relay
	Deleted         int64 // whose row the table no longer has
	Newer           int64 // whose row is younger than the snapshot
	Topics          []TopicCount

	Missing   Findings
	Doubled   Findings
	Reordered Findings
	Different Findings
}

// TopicCount is what one topic holds.
type TopicCount struct {
	Topic           string
	Partitions      int // 0: it does not exist
	Events          int64
	Replays         int64
	Letters         int64
	ConsumerLetters int64
	Foreign         int64
}

// Findings are those of one kind, the first of them with what is known.
type Findings struct {
	Count    int64
	Examples []Finding
}

// Finding is one row or record. It holds no payload, key or header value.
type Finding struct {
	ID      string
	Detail  string
	Created *time.Time // of the row, if it says so
	Places  []Place
}

// Place is where a record is.
type Place struct {
	Topic     string
	Partition int32
	Offset    int64
}

func (f *Findings) add(one Finding, most int) {
	if f.Count++; len(f.Examples) < most {
		f.Examples = append(f.Examples, one)
	}
}

// Verdict is one kind of finding with its code.
type Verdict struct {
	Code *fault.Code
	Findings
}

// Verdicts returns the four kinds, also those that found nothing.
func (r *Report) Verdicts() []Verdict {
	return []Verdict{
		{fault.DataMissing, r.Missing},
		{fault.DataDoubled, r.Doubled},
		{fault.DataReordered, r.Reordered},
		{fault.DataDifferent, r.Different},
	}
}

// Sound tells whether nothing was found.
func (r *Report) Sound() bool {
	for _, v := range r.Verdicts() {
		if v.Count > 0 {
			return false
		}
	}
	return true
}
