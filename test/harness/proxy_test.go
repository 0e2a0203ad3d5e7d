package harness

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// echo is a server that sends back each line it gets, and notes it.
func echo(t *testing.T) (addr string, got chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", loopback+":0")
	mustBeNil(t, err)
	got = make(chan string, 1000)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					got <- line
					if _, err := io.WriteString(conn, line); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return ln.Addr().String(), got
}

// caller is a client of echo.
type caller struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) caller {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	mustBeNil(t, err)
	t.Cleanup(func() { conn.Close() })
	return caller{conn, bufio.NewReader(conn)}
}

func (c caller) send(t *testing.T, line string) {
	t.Helper()
	_, err := io.WriteString(c, line)
	mustBeNil(t, err)
}

// hear waits for a line for at most d.
func (c caller) hear(d time.Duration) (string, error) {
	c.SetReadDeadline(time.Now().Add(d))
	return c.r.ReadString('\n')
}

func (c caller) mustHear(t *testing.T, want string) {
	t.Helper()
	if got, err := c.hear(10 * time.Second); err != nil || got != want {
		t.Fatalf("heard %q, %v; want %q", got, err, want)
	}
}

// silence is how long a test listens to be sure that nothing comes. It can
// pass wrongly on a slow machine, never fail wrongly.
const silence = 50 * time.Millisecond

func (c caller) mustHearNothing(t *testing.T) {
	t.Helper()
	if got, err := c.hear(silence); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("heard %q, %v; want nothing", got, err)
	}
}

func TestProxyPasses(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := NewProxy(t, addr)
	a, b := dial(t, p.Addr()), dial(t, p.Addr())
	a.send(t, "one\n")
	b.send(t, "two\n")
	b.mustHear(t, "two\n")
	a.mustHear(t, "one\n")
	// The end of one direction arrives, and the other still carries.
	a.send(t, "last\n")
	mustBeNil(t, a.Conn.(*net.TCPConn).CloseWrite())
	a.mustHear(t, "last\n")
	if got, err := a.hear(10 * time.Second); err != io.EOF {
		t.Fatalf("heard %q, %v; want the end", got, err)
	}
}

func TestProxyCutAndRestore(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := NewProxy(t, addr)
	c := dial(t, p.Addr())
	c.send(t, "one\n")
	c.mustHear(t, "one\n")
	p.Cut()
	if got, err := c.hear(10 * time.Second); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("heard %q, %v; want a reset", got, err)
	}
	if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %v; want a refusal", err)
	}
	for range 2 { // again is no error
		mustBeNil(t, p.Restore())
	}
	c = dial(t, p.Addr())
	c.send(t, "two\n")
	c.mustHear(t, "two\n")
	p.Close()
	if err := p.Restore(); err == nil {
		t.Fatal("a closed proxy came back")
	}
}

func TestProxyDelay(t *testing.T) {
	t.Parallel()
	const delay = 60 * time.Millisecond
	addr, _ := echo(t)
	p := NewProxy(t, addr)
	p.Delay(delay)
	c := dial(t, p.Addr())
	began := time.Now()
	// Were each write held up for itself, twenty would take 20 delays. The pace
	// makes them several reads for the proxy.
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	for range 20 {
		c.send(t, "x\n")
		<-pace.C
	}
	for range 20 {
		c.mustHear(t, "x\n")
	}
	if took := time.Since(began); took < 2*delay || took > 15*delay {
		t.Errorf("there and back took %v with %v each way", took, delay)
	}
}

func TestProxyStall(t *testing.T) {
	t.Parallel()
	addr, got := echo(t)
	p := NewProxy(t, addr)
	c := dial(t, p.Addr())
	c.send(t, "one\n")
	c.mustHear(t, "one\n")
	<-got
	p.Stall()
	c.send(t, "two\n")
	late := dial(t, p.Addr()) // accepted all the same
	late.send(t, "three\n")
	c.mustHearNothing(t)
	late.mustHearNothing(t)
	if len(got) != 0 {
		t.Fatalf("the server got %q through a stall", <-got)
	}
	mustBeNil(t, p.Restore())
	c.mustHear(t, "two\n")
	late.mustHear(t, "three\n")
}

func TestProxyStallOneWay(t *testing.T) {
	t.Parallel()
	addr, got := echo(t)
	p := NewProxy(t, addr)
	p.StallOneWay(Downstream)
	c := dial(t, p.Addr())
	c.send(t, "one\n")
	if line := <-got; line != "one\n" {
		t.Fatalf("the server got %q", line)
	}
	c.mustHearNothing(t)
	p.Cut() // ends a stalled link too
	if _, err := c.hear(10 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v; want the end of the connection", err)
	}
}

func TestProxyWithoutServer(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(1)
	mustBeNil(t, err)
	p := NewProxy(t, hostPort(ports[0]))
	conn, err := net.Dial("tcp", p.Addr())
	if err == nil { // else the reset was as fast as the dial
		defer conn.Close()
		_, err = caller{conn, bufio.NewReader(conn)}.hear(10 * time.Second)
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v; want the end of the connection", err)
	}
}

func TestFreePortsDiffer(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(50)
	mustBeNil(t, err)
	seen := map[int]bool{}
	for _, port := range ports {
		if seen[port] || port < firstPort || port >= lastPort {
			t.Fatalf("got %d", port)
		}
		seen[port] = true
	}
}
