package sink

import (
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/kafka"
)

// RefusedError says that a broker refused records for what they are. It is the
// cause of a TransactionFailed: nothing of the transaction was committed. Which
// record is at fault is not known, because a broker answers for a batch.
type RefusedError struct {
	// Suspects are the records of the batches that were refused.
	Suspects []*kgo.Record
	// Code is the class of the answer, such as fault.RowRefused.
	Code *fault.Code
	Err  error
}

// Error names the answer and the topic.
func (e *RefusedError) Error() string {
	if len(e.Suspects) == 0 {
		return fmt.Sprintf("records refused: %v", e.Err)
	}
	return fmt.Sprintf("%d records refused, topic %s: %v", len(e.Suspects), e.Suspects[0].Topic, e.Err)
}

// Unwrap returns the broker's answer.
func (e *RefusedError) Unwrap() error { return e.Err }

// rejects collects the records of one transaction that were not acknowledged.
type rejects struct {
	mu       sync.Mutex
	topic    string // of the first
	first    error
	n        int // records
	suspects []*kgo.Record
	code     *fault.Code
	answer   error
}

func (r *rejects) reset() {
	r.topic, r.first, r.n, r.suspects, r.code, r.answer = "", nil, 0, nil, nil, nil
}

// said returns how many there are, and what the first was refused with.
func (r *rejects) said() (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n, r.first
}

func (r *rejects) add(rec *kgo.Record, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	if r.first == nil {
		r.topic, r.first = rec.Topic, err
	}
	// What follows a refused batch fails too, for its sake. Only a broker's own
	// words, or the client's size check in their place, make a suspect.
	if code := fault.CodeOf(kafka.Classify("", err)); code.Class == fault.Reject && errors.As(err, new(*kerr.Error)) {
		if r.code == nil {
			r.code, r.answer = code, err
		}
		r.suspects = append(r.suspects, rec)
	}
}

// cause is the error of a transaction with rejects, or nil.
func (r *rejects) cause() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.first == nil:
		return nil
	case r.suspects != nil:
		// Nothing was committed, so trying again is safe, and another session
		// may see another limit or another leader.
		return fault.Wrap(&RefusedError{Suspects: r.suspects, Code: r.code, Err: r.answer}, fault.TransactionFailed, "produce")
	}
	err := kafka.Classify("produce to "+r.topic, r.first)
	if fault.CodeOf(err) == fault.Unclassified {
		err = fault.Wrap(r.first, fault.TransactionFailed, "produce to %s", r.topic)
	}
	return err
}
