package systemd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// manager is the socket of a service manager.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func listen(t *testing.T, name string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{t: t, conn: conn}
}

// next returns the lines of the next message.
func (m *manager) next() []string {
	m.t.Helper()
	buf := make([]byte, 4096)
	if err := m.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	n, err := m.conn.Read(buf)
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.Split(string(buf[:n]), "\n")
}

// until reads messages up to one that has the line.
func (m *manager) until(line string) []string {
	m.t.Helper()
	for {
		if got := m.next(); slices.Contains(got, line) {
			return got
		}
	}
}

// service is what is looked at.
type service struct {
	mu  sync.Mutex
	now Status
}

func (s *service) set(now Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

func (s *service) look() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// running is a notifier at work.
type running struct {
	stop, end context.CancelFunc
	done      chan error
}

func start(t *testing.T, n *Notifier, s *service) *running {
	t.Helper()
	stopping, stop := context.WithCancel(context.Background())
	ended, end := context.WithCancel(context.Background())
	r := &running{stop: stop, end: end, done: make(chan error, 1)}
	go func() {
		defer close(r.done)
		r.done <- n.Run(stopping, ended, s.look)
	}()
	t.Cleanup(func() {
		stop()
		end()
		for range r.done {
		}
	})
	return r
}

func environ(socket string, more ...string) []string {
	return append([]string{"PATH=/bin", "NOTIFY_SOCKET=" + socket}, more...)
}

func TestLifeOfAService(t *testing.T) {
	t.Parallel()
	for name, socket := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": "@outbox-relay-test-" + filepath.Base(t.TempDir()) + time.Now().Format("150405.000000"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := listen(t, socket)
			s := &service{now: Status{Alive: true, Line: "backoff: OBX-5001\nno broker"}}
			n := New(environ(socket, "WATCHDOG_USEC=60000", "WATCHDOG_PID=17"), 17, zerolog.Nop())
			r := start(t, n, s)

			first := m.next()
			if want := []string{"EXTEND_TIMEOUT_USEC=30000000", "STATUS=backoff: OBX-5001 no broker", "WATCHDOG=1"}; !slices.Equal(first, want) {
				t.Errorf("while it waits: %q, want %q", first, want)
			}
			if next := m.next(); slices.Contains(next, "STATUS=backoff: OBX-5001 no broker") {
				t.Errorf("the same line twice: %q", next)
			}

			s.set(Status{Alive: true, Up: true, Line: "leader"})
			if got, want := m.until("READY=1"), []string{"READY=1", "STATUS=leader", "WATCHDOG=1"}; !slices.Equal(got, want) {
				t.Errorf("once it is up: %q, want %q", got, want)
			}
			if got := m.next(); !slices.Equal(got, []string{"WATCHDOG=1"}) {
				t.Errorf("while nothing changes: %q", got)
			}

			// Up is for good: an outage is no second start.
			s.set(Status{Alive: true, Line: "backoff"})
			if got := m.until("STATUS=backoff"); !slices.Equal(got, []string{"STATUS=backoff", "WATCHDOG=1"}) {
				t.Errorf("in an outage: %q", got)
			}

			r.stop()
			if got := m.until("STOPPING=1"); slices.Contains(got, "READY=1") {
				t.Errorf("at the stop: %q", got)
			}
			if got := m.next(); !slices.Equal(got, []string{"WATCHDOG=1"}) {
				t.Errorf("while it drains: %q", got)
			}
		})
	}
}

// A stuck process gives no sign of life, and asks for no time.
func TestStuckIsSilent(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "notify")
	m := listen(t, socket)
	s := &service{now: Status{Line: "starting"}}
	start(t, New(environ(socket, "WATCHDOG_USEC=30000"), 1, zerolog.Nop()), s)
	if got := m.next(); !slices.Equal(got, []string{"STATUS=starting"}) {
		t.Fatalf("%q", got)
	}
	s.set(Status{Line: "still stuck"})
	if got := m.next(); !slices.Equal(got, []string{"STATUS=still stuck"}) {
		t.Fatalf("%q", got)
	}
}

func TestWhoIsSpokenTo(t *testing.T) {
	t.Parallel()
	if n := New([]string{"PATH=/bin", "NOTIFY_SOCKET="}, 1, zerolog.Nop()); n != nil {
		t.Error("a manager was found where there is none")
	}
	for name, c := range map[string]struct {
		environ  []string
		watchdog time.Duration
	}{
		"no watchdog":      {nil, 0},
		"any process":      {[]string{"WATCHDOG_USEC=30000000"}, 30 * time.Second},
		"this process":     {[]string{"WATCHDOG_USEC=30000000", "WATCHDOG_PID=9"}, 30 * time.Second},
		"another process":  {[]string{"WATCHDOG_USEC=30000000", "WATCHDOG_PID=8"}, 0},
		"no number":        {[]string{"WATCHDOG_USEC=soon"}, 0},
		"negative":         {[]string{"WATCHDOG_USEC=-5"}, 0},
		"shorter than 1 s": {[]string{"WATCHDOG_USEC=3000"}, 3 * time.Millisecond},
	} {
		n := New(environ("/nowhere", c.environ...), 9, zerolog.Nop())
		if n.watchdog != c.watchdog || n.tick <= 0 || n.tick > time.Second {
			t.Errorf("%s: watchdog %s, looks every %s", name, n.watchdog, n.tick)
		}
	}
}

// A manager that cannot be reached is told of once, and costs nothing else. When
// it is there after all it hears everything.
func TestManagerThatIsNotThere(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "notify")
	var log lines
	s := &service{now: Status{Alive: true, Up: true, Line: "leader"}}
	r := start(t, New(environ(socket, "WATCHDOG_USEC=30000"), 1, zerolog.New(&log)), s)
	log.wait(t)
	m := listen(t, socket)
	if got, want := m.next(), []string{"READY=1", "STATUS=leader", "WATCHDOG=1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	r.end()
	if err := <-r.done; err != nil {
		t.Errorf("a deaf manager ended the service: %v", err)
	}
	if n := log.count(); n != 1 {
		t.Errorf("%d log lines", n)
	}
}

func TestOddAddress(t *testing.T) {
	t.Parallel()
	for _, socket := range []string{"vsock:2:1", "relative"} {
		n := New(environ(socket), 1, zerolog.Nop())
		if err := n.send([]string{"READY=1"}); err == nil {
			t.Errorf("%s was spoken to", socket)
		}
	}
	if _, err := os.Stat("relative"); err == nil {
		t.Error("a socket was made")
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	var n *Notifier
	if err := n.Run(context.Background(), context.Background(), nil); err != nil {
		t.Error(err)
	}
}

// lines counts what is logged.
type lines struct {
	mu sync.Mutex
	n  int
	on chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n++; l.on != nil {
		close(l.on)
		l.on = nil
	}
	return len(p), nil
}

func (l *lines) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

func (l *lines) wait(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	on := make(chan struct{})
	if l.n > 0 {
		close(on)
	} else {
		l.on = on
	}
	l.mu.Unlock()
	select {
	case <-on:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was logged")
	}
}

// One that ends as soon as it is told to stop says that it stops all the same.
func TestQuickEnd(t *testing.T) {
	t.Parallel()
	for range 20 {
		socket := filepath.Join(t.TempDir(), "notify")
		m := listen(t, socket)
		r := start(t, New(environ(socket), 1, zerolog.Nop()), &service{now: Status{Alive: true, Up: true, Line: "disabled"}})
		m.until("READY=1")
		r.stop()
		r.end()
		m.until("STOPPING=1")
	}
}
