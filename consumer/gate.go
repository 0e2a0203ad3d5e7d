package consumer

import (
	"context"
	"sync"
)

// gate lets the reader poll and hand over, or does not. Closing it ends the poll
// that is under way and waits for its records to be handed over, so that what
// is in flight afterwards is all there is.
type gate struct {
	mu     sync.Mutex
	shut   bool
	cancel context.CancelFunc // of the poll under way
	left   chan struct{}      // closed when the reader leaves; nil if nobody waits
	opened chan struct{}      // closed by open
}

// enter waits until the gate is open and returns the context for one poll. The
// caller owes a leave unless there is an error.
func (g *gate) enter(ctx context.Context) (context.Context, error) {
	for {
		g.mu.Lock()
		if !g.shut {
			poll, cancel := context.WithCancel(ctx)
			g.cancel = cancel
			g.mu.Unlock()
			return poll, nil
		}
		opened := g.opened
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cancel()
	g.cancel = nil
	if g.left != nil {
		close(g.left)
		g.left = nil
	}
}

func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	if !g.shut {
		g.shut, g.opened = true, make(chan struct{})
	}
	if g.cancel == nil {
		g.mu.Unlock()
		return nil
	}
	g.cancel()
	if g.left == nil {
		g.left = make(chan struct{})
	}
	left := g.left
	g.mu.Unlock()
	select {
	case <-left:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		g.shut = false
		close(g.opened)
	}
}
