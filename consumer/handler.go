package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Handler does what an event asks for. nil means done. An error means again,
// with backoff, until Config.Attempts; then the event becomes a dead letter.
// See [Permanent], [RetryAfter] and [ErrSkip] for other answers.
//
// The context ends when the partition is taken away or the consumer stops and
// Config.DrainTimeout is over. What a handler returns after that is not an
// attempt: the event is delivered again, here or elsewhere.
//
// Calls for one key come one after the other, in order. A panic is an error
// like any other; its stack goes to the log.
type Handler func(ctx context.Context, ev Event) error

// Transform returns the records that an event turns into. They are committed
// to Kafka together with the event's own offset, or not at all. An event of
// whose records Kafka refuses one for good becomes a dead letter.
type Transform func(ctx context.Context, ev Event) ([]*kgo.Record, error)

// ErrSkip tells that the event was done before. It counts as done, and is
// counted apart.
var ErrSkip = errors.New("the event was handled before")

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Permanent marks an error that no further attempt can cure: the event becomes
// a dead letter at once. It returns nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type laterError struct {
	err   error
	after time.Duration
}

func (e *laterError) Error() string { return e.err.Error() }
func (e *laterError) Unwrap() error { return e.err }

// RetryAfter marks an error whose next attempt must not come before d has
// passed. The attempt counts. It returns nil for nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &laterError{err, d}
}

// PanicError is a handler that panicked.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// DefaultBackoff waits 1, 2, 4, 8, 10, 10 ... seconds after the first, second
// ... failed attempt, each up to a fifth longer so that members do not beat in
// step.
func DefaultBackoff(failed int) time.Duration {
	d := 10 * time.Second
	if failed < 5 {
		d = time.Second << max(failed-1, 0)
	}
	if d > 10*time.Second {
		d = 10 * time.Second
	}
	return d + jitter(d/5)
}

// GaveUpError ends Run where there is no dead letter topic: an event that
// cannot be handled must not be passed over.
type GaveUpError struct {
	Topic     string
	Partition int32
	Offset    int64
	ID        string
	Attempts  int // 0: it could not even be read
	Err       error
}

func (e *GaveUpError) Error() string {
	return fmt.Sprintf("give up on %s after %d attempts: %v", place(e.Topic, e.Partition, e.Offset), e.Attempts, e.Err)
}

func (e *GaveUpError) Unwrap() error { return e.Err }
