package harness

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Direction is one of the two ways through a proxy.
type Direction int

const (
	// Upstream is from the client to the server.
	Upstream Direction = iota
	// Downstream is from the server to the client.
	Downstream
)

// Proxy is a wire on the loopback: it passes bytes both ways until it is told
// to cut, delay or stall them. It knows no protocol. It is safe for
// concurrent use.
type Proxy struct {
	front *front

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change of what follows
	delay   time.Duration
	stalled [2]bool
}

// StartProxy listens on a free loopback port for connections to upstream. The
// caller owes a Close.
func StartProxy(upstream string) (*Proxy, error) {
	p := &Proxy{changed: make(chan struct{})}
	var err error
	p.front, err = startFront(upstream, p.serve)
	return p, err
}

// NewProxy is StartProxy for one test.
func NewProxy(t testing.TB, upstream string) *Proxy {
	t.Helper()
	p, err := StartProxy(upstream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Addr returns the address to connect to.
func (p *Proxy) Addr() string { return p.front.addr }

// Cut resets all connections and has new ones refused.
func (p *Proxy) Cut() { p.front.cut() }

// Restore makes the proxy a plain wire again: it listens, without delay and
// without stall.
func (p *Proxy) Restore() error {
	p.set(func() { p.delay, p.stalled = 0, [2]bool{} })
	return p.front.restore()
}

// Delay has each byte arrive d later, both ways. The bandwidth stays.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// Stall passes nothing any more in either direction, and goes on accepting:
// a line that has gone dead without a word.
func (p *Proxy) Stall() { p.set(func() { p.stalled = [2]bool{true, true} }) }

// StallOneWay is Stall for one direction; the other keeps passing.
func (p *Proxy) StallOneWay(d Direction) { p.set(func() { p.stalled[d] = true }) }

// Close cuts all connections and returns when all goroutines have ended.
func (p *Proxy) Close() { p.front.close() }

func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) serve(l *link) {
	var both sync.WaitGroup
	both.Go(func() { p.pass(l, Upstream, l.server, l.client) })
	both.Go(func() { p.pass(l, Downstream, l.client, l.server) })
	both.Wait()
}

// chunk is what one read returned, and when it came.
type chunk struct {
	data []byte
	at   time.Time
}

// pass moves one direction of a link. Reading and writing are apart so that a
// delay costs latency and not bandwidth: what is under way waits in the queue.
func (p *Proxy) pass(l *link, d Direction, to, from *net.TCPConn) {
	queue := make(chan chunk, 64)
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() {
		defer close(queue)
		for {
			// A stalled wire takes nothing in: the sender's window fills up.
			if p.hold(l.ctx, d, time.Time{}) != nil {
				return
			}
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if n > 0 {
				select {
				case queue <- chunk{buf[:n], time.Now()}:
				case <-l.ctx.Done():
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					l.cancel()
				}
				return
			}
		}
	})
	for c := range queue {
		if p.hold(l.ctx, d, c.at) != nil {
			return
		}
		if _, err := to.Write(c.data); err != nil {
			l.cancel()
			return
		}
	}
	// The end of the stream is passed on like its bytes: not through a stall.
	if p.hold(l.ctx, d, time.Now()) == nil {
		to.CloseWrite()
	}
}

// hold returns when a byte that came at the given time may pass. The zero
// time knows no delay.
func (p *Proxy) hold(ctx context.Context, d Direction, at time.Time) error {
	for {
		p.mu.Lock()
		changed, stalled, delay := p.changed, p.stalled[d], p.delay
		p.mu.Unlock()
		var due <-chan time.Time
		if !stalled {
			left := time.Until(at.Add(delay))
			if at.IsZero() || left <= 0 {
				return ctx.Err()
			}
			due = time.After(left)
		}
		select {
		case <-due:
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
