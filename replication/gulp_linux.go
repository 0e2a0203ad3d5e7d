package replication

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// gulp is what has to have arrived before a busy reader is woken: some
	// hundred rows.
	gulp = 32 << 10
	// gulpWait bounds how long less than a gulp may wait. The poller counts in
	// milliseconds.
	gulpWait = time.Millisecond
	// busyReads small reads within busySpan begin to gulp: 4,000 wake-ups a
	// second. Slower streams are read as they come.
	busyReads = 32
	busySpan  = 8 * time.Millisecond
)

// gulper is a TCP connection that gulps. Read is called by one goroutine; the
// deadlines may be set by another, as the driver does when a context ends.
type gulper struct {
	*net.TCPConn
	raw syscall.RawConn

	mu       sync.Mutex
	deadline time.Time // the caller's

	gulps bool
	small int       // small reads since span began
	span  time.Time // of the count
}

func newGulper(conn *net.TCPConn) net.Conn {
	raw, err := conn.SyscallConn()
	if err != nil {
		return conn
	}
	return &gulper{TCPConn: conn, raw: raw}
}

// SetDeadline implements net.Conn.
func (g *gulper) SetDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deadline = t
	return g.TCPConn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (g *gulper) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deadline = t
	return g.TCPConn.SetReadDeadline(t)
}

// putBack ends a deadline of our own.
func (g *gulper) putBack() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.TCPConn.SetReadDeadline(g.deadline)
}

// Read implements io.Reader. While gulping it returns when a gulp is there, or
// with what is there after gulpWait.
func (g *gulper) Read(b []byte) (int, error) {
	if !g.gulps {
		n, err := g.TCPConn.Read(b)
		g.count(n)
		return n, err
	}
	n, err := g.wait(b)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	if n, err = g.now(b); n > 0 || err != nil {
		return n, err
	}
	// Nothing for as long as that: it is quiet.
	if err := g.lowWater(1); err != nil {
		return 0, err
	}
	g.gulps, g.small = false, 0
	return g.TCPConn.Read(b)
}

// wait reads when a gulp has arrived. The runtime is woken by what arrives and
// not by what is there, so that is asked for first. The caller's deadline is
// far away compared with gulpWait, and is put back.
func (g *gulper) wait(b []byte) (n int, err error) {
	if err := g.TCPConn.SetReadDeadline(time.Now().Add(gulpWait)); err != nil {
		return 0, err
	}
	rerr := g.raw.Read(func(fd uintptr) bool {
		var there int
		if there, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ); err != nil {
			return true
		}
		if there < gulp {
			return false
		}
		n, err = unix.Read(int(fd), b)
		return true
	})
	derr := g.putBack()
	switch {
	case rerr != nil:
		return 0, rerr
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, derr
}

// now reads what is there. Nothing is no error.
func (g *gulper) now(b []byte) (n int, err error) {
	rerr := g.raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), b)
		return true // do not wait
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// count begins to gulp when many small reads came close together.
func (g *gulper) count(n int) {
	if n <= 0 || n > gulp/4 {
		return
	}
	if g.small++; g.small < busyReads {
		if g.small == 1 {
			g.span = time.Now()
		}
		return
	}
	g.small = 0
	if time.Since(g.span) <= busySpan && g.lowWater(gulp) == nil {
		g.gulps = true
	}
}

func (g *gulper) lowWater(bytes int) error {
	var err error
	rerr := g.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes)
	})
	return errors.Join(rerr, err)
}
