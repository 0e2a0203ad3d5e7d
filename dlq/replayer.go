package dlq

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// Replayer sends letters on, or closes them. See the package comment for what
// makes it safe to be killed.
type Replayer struct {
	Name               string // of the relay; the transactional id follows from it
	By                 string // who, for the marks
	View               *View
	TransactionTimeout time.Duration
	// Partitioner is the relay's own, and Place makes a record ask it for a
	// partition.
	Partitioner kgo.Partitioner
	Place       func(r *kgo.Record, partition int32)
	// Denied are topics that letters are never sent to, besides Kafka's own.
	Denied []string
	// Tries is how many sessions may fail in a row for what may pass; 0: 5.
	Tries int
	// Turn is shared by replayers of one process that do not want to fence each
	// other: it has room for one, and holds whoever runs. nil: a later one takes
	// over from an earlier one, as it does between processes.
	Turn chan struct{}
	// Table finds what a letter had no room for; nil: there is no table.
	Table   *Table
	Log     zerolog.Logger
	Metrics *Metrics
}

// Job is what is to be done with letters.
type Job struct {
	Action Action // Replayed or Purged
	// To sends to this topic instead of the one that was meant.
	To string
	// FromTable takes the row as it is now instead of what the letter holds.
	FromTable bool
	// MaxReplays refuses letters of events that were replayed so often; 0: none.
	MaxReplays int
	// Because is kept in the marks.
	Because string
	// Defer marks what was refused with when to try again; nil: it is left.
	Defer *Schedule
	// Report is told about each letter, in order.
	Report func(Result)
}

// Result is what became of one letter of a job.
type Result struct {
	Where   Spot
	ID      string
	Group   string
	Topic   string  // where it went, or was to go
	Outcome Outcome // what happened
	Err     *fault.Error
	NextAt  time.Time // of a deferred letter
}

// Outcome is the short form of a Result.
type Outcome string

// The outcomes.
const (
	OutcomeDone     Outcome = "done"     // replayed or purged
	OutcomeRefused  Outcome = "refused"  // stays open; Err says why
	OutcomeDeferred Outcome = "deferred" // refused, and marked with when it is tried again
	OutcomeClosed   Outcome = "closed"   // somebody else was faster
	OutcomeLater    Outcome = "later"    // its time was moved by somebody else, or taken away
)

// Ref is all that is kept of a letter that is chosen: about 64 bytes.
type Ref struct {
	place  Place
	offset int64
	part   int32
	size   uint32
}

// RefOf returns what has to be kept of a letter in order to replay it.
func RefOf(i *Item) Ref {
	place, _ := PlaceOf(i.Headers)
	return Ref{place: place, offset: i.Where.Offset, part: i.Where.Partition, size: uint32(i.Size)}
}

// SortRefs puts letters in the order in which their rows were committed.
func SortRefs(refs []Ref) {
	slices.SortFunc(refs, func(a, b Ref) int {
		return cmp.Or(a.place.Compare(b.place), cmp.Compare(a.part, b.part), cmp.Compare(a.offset, b.offset))
	})
}

const (
	maxBatch      = 500 // letters in one transaction
	maxBatchSize  = 16 << 20
	defaultTries  = 5
	firstPatience = time.Second
	mostPatience  = 10 * time.Second
)

// Run does a job on letters, in order, one transaction after another. A letter
// that cannot be sent stays open and is reported; the later ones of its topic
// and key stay with it, so that they do not overtake it, and all others go on.
// An error means that the rest was not tried. What is reported as done is done.
func (r *Replayer) Run(ctx context.Context, job Job, refs []Ref) error {
	if r.Turn != nil {
		select {
		case r.Turn <- struct{}{}:
			defer func() { <-r.Turn }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	u := &run{Replayer: r, job: job, held: map[markID]bool{}, noTopic: map[string]*fault.Error{}}
	defer u.end()
	for len(refs) > 0 {
		n := batchOf(refs)
		if err := u.batch(ctx, refs[:n]); err != nil {
			return err
		}
		refs = refs[n:]
	}
	return nil
}

func batchOf(refs []Ref) int {
	n, size := 1, int(refs[0].size)
	for n < min(len(refs), maxBatch) && size+int(refs[n].size) <= maxBatchSize {
		size += int(refs[n].size)
		n++
	}
	return n
}

// Where is the place of the letter in its topic.
func (r Ref) Where(topic string) Spot { return Spot{Topic: topic, Partition: r.part, Offset: r.offset} }
