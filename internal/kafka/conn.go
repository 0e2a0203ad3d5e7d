package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// conn is a connection under way to being used. Until the client library calls
// it open, it keeps to the deadline of the dial and says what it knows about a
// failure. Afterwards it is the connection it wraps.
type conn struct {
	net.Conn
	deadline time.Time
	info     connError
	open     atomic.Bool
	seen     atomic.Bool // something was received
}

// opened ends the deadline of the dial.
func (c *conn) opened() { c.open.Store(true) }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.Conn.SetReadDeadline(c.sooner(t)) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.Conn.SetWriteDeadline(c.sooner(t)) }

func (c *conn) sooner(t time.Time) time.Time {
	if !c.open.Load() && !t.IsZero() && t.After(c.deadline) {
		return c.deadline
	}
	return t
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !c.open.Load() {
		err = c.failed(opening, err)
	}
	return n, err
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.open.Load() {
		return n, err
	}
	if n > 0 && !c.seen.Swap(true) {
		if s := greeting(p[:n]); s != opening {
			return 0, c.failed(s, errAlien)
		}
	}
	if err == nil || (err == io.EOF && c.seen.Load()) {
		// The library knows an EOF behind the first answer by identity.
		return n, err
	}
	return n, c.failed(opening, err)
}

func (c *conn) failed(s stage, err error) error {
	e := c.info
	e.stage, e.err, e.first = s, err, !c.seen.Load()
	return &e
}

// errAlien is the cause when the first bytes could be read and are not Kafka's.
var errAlien = errors.New("the first bytes are no answer of Kafka")

// maxGreeting is more than any broker's first answer, which lists the versions
// of some eighty requests.
const maxGreeting = 1 << 20

// greeting judges the first bytes that were received. An answer of Kafka
// begins with its length.
func greeting(p []byte) stage {
	if len(p) < 4 {
		return opening // the library will judge
	}
	switch {
	case p[0] >= 0x14 && p[0] <= 0x17 && p[1] == 3:
		return alienTLS // a record of TLS, most likely an alert
	case bytes.HasPrefix(p, []byte("HTTP")), binary.BigEndian.Uint32(p) > maxGreeting:
		return alien
	}
	return opening
}
