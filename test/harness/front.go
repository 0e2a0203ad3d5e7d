package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// front is what the two proxies share: a listener, the connections behind it
// and the means to cut them.
type front struct {
	addr, upstream string
	serve          func(*link) // returns when the link is dead; closes nothing

	mu     sync.Mutex
	ln     net.Listener // nil: cut or closed
	links  map[*link]struct{}
	closed bool
	wg     sync.WaitGroup
}

// link is one connection of a client and the one made for it to the server.
// ctx ends when the link is cut, from whichever side.
type link struct {
	client, server *net.TCPConn
	ctx            context.Context
	cancel         context.CancelFunc
}

// startFront listens and returns; serve may then be called at any time.
func startFront(upstream string, serve func(*link)) (*front, error) {
	ln, err := listen()
	if err != nil {
		return nil, fmt.Errorf("listen for the proxy of %s: %w", upstream, err)
	}
	f := &front{addr: ln.Addr().String(), upstream: upstream, serve: serve, links: map[*link]struct{}{}}
	f.accept(ln)
	return f, nil
}

// accept is called with mu held, or before anyone else knows f.
func (f *front) accept(ln net.Listener) {
	f.ln = ln
	f.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // the listener was closed: cut does that, nothing else
			}
			f.handle(ln, conn.(*net.TCPConn))
		}
	})
}

func (f *front) handle(ln net.Listener, conn *net.TCPConn) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{client: conn, ctx: ctx, cancel: cancel}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ln != ln { // cut while this one was being accepted
		cancel()
		reset(conn)
		return
	}
	f.links[l] = struct{}{}
	f.wg.Go(func() {
		f.run(l)
		f.mu.Lock()
		delete(f.links, l)
		f.mu.Unlock()
	})
}

func (f *front) run(l *link) {
	defer l.cancel()
	server, err := (&net.Dialer{}).DialContext(l.ctx, "tcp", f.upstream)
	if err != nil {
		reset(l.client)
		return
	}
	l.server = server.(*net.TCPConn)
	// A blocked read or write sees nothing but the close of its connection.
	cut := make(chan struct{})
	stop := context.AfterFunc(l.ctx, func() {
		defer close(cut)
		reset(l.client)
		reset(l.server)
	})
	f.serve(l)
	if !stop() {
		<-cut
		return
	}
	l.client.Close()
	l.server.Close()
}

// cut resets every connection and has new ones refused.
func (f *front) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ln != nil {
		f.ln.Close()
		f.ln = nil
	}
	for l := range f.links {
		l.cancel()
	}
}

// restore listens again on the same port.
func (f *front) restore() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errors.New("restore a proxy: it is closed")
	}
	if f.ln != nil {
		return nil
	}
	ln, err := net.Listen("tcp", f.addr)
	if err != nil {
		return fmt.Errorf("restore a proxy: %w", err)
	}
	f.accept(ln)
	return nil
}

// close cuts for good and returns when all goroutines have ended.
func (f *front) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cut()
	f.wg.Wait()
}

// reset closes with RST instead of FIN: the peer notices at once, and what was
// under way is lost as it would be on a broken line.
func reset(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}
