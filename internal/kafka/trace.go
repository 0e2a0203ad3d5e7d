package kafka

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// traceAge is how long a failed connection explains what failed after it: the
// client tries for up to 30 s before it gives up.
const traceAge = time.Minute

// Trace remembers why brokers could not be connected to. The client tries
// other brokers, tries again, and in the end returns "the broker connection has
// died" or "deadline exceeded"; the cause was seen on the way. Advertised
// listeners that cannot be reached from here are the usual case: the first
// broker answers, and all that follows fails.
//
// Its methods may be called from any goroutine, and on nil.
type Trace struct {
	mu   sync.Mutex
	last map[string]failedConnection // by address; no entry: reachable when last tried
}

type failedConnection struct {
	at  time.Time
	err error
}

// NewTrace returns an empty one.
func NewTrace() *Trace { return &Trace{last: map[string]failedConnection{}} }

func (t *Trace) connected(b kgo.BrokerMetadata, err error) {
	if t == nil {
		return
	}
	addr := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		delete(t.last, addr)
	case errors.Is(err, kgo.ErrClientClosed): // says nothing about the broker
	default:
		t.last[addr] = failedConnection{time.Now(), err}
	}
}

// Explain puts the cause in place of an error that only says that something
// took too long or that a broker was not there. Any other error stays.
func (t *Trace) Explain(err error) error {
	var f *fault.Error
	if t == nil || !errors.As(err, &f) || !hides(f.Code) {
		return err
	}
	addr, cause := t.newest()
	if cause == nil {
		return err
	}
	named := Classify(f.Detail+": broker "+addr, cause)
	var known *fault.Error
	if !errors.As(named, &known) || known.Code.Connection() == "" {
		return err
	}
	return known
}

// hides tells whether a code may stand for a connection that was never made.
func hides(code *fault.Code) bool {
	switch code {
	case fault.KafkaUnavailable, fault.KafkaUnreachable, fault.KafkaTimeout, fault.KafkaSilent, fault.BarrierTimeout, fault.ReadBackTimeout, fault.TransactionFailed:
		return true
	}
	return false
}

func (t *Trace) newest() (addr string, cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var at time.Time
	for a, f := range t.last {
		if time.Since(f.at) < traceAge && f.at.After(at) {
			at, addr, cause = f.at, a, f.err
		}
	}
	return addr, cause
}

// connections is the hook of every client: it ends the deadline of the dial,
// keeps the trace and counts.
type connections struct {
	trace   *Trace
	metrics *Metrics
}

// OnBrokerConnect implements kgo.HookBrokerConnect. The error covers the dial,
// the handshake and the authentication: the client calls it after all three.
func (h connections) OnBrokerConnect(b kgo.BrokerMetadata, _ time.Duration, c net.Conn, err error) {
	if c, ok := c.(*conn); ok && err == nil {
		c.opened()
	}
	h.trace.connected(b, err)
	h.metrics.connected(err)
}
