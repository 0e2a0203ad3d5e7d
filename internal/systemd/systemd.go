// Package systemd tells the service manager how the process is: the protocol of
// sd_notify(3), for a unit with Type=notify and WatchdogSec.
//
// Its job is to say when the service is up, how it is in one line, that it is
// alive, and that it stops.
//
// Invariants: without NOTIFY_SOCKET nothing happens. The service counts as up
// when a start-up probe would pass, so a relay that has halted is up too and is
// not killed for it. A sign of life is sent only while a liveness probe would
// pass: a manager that restarts a stuck process and a kubelet that does so agree.
// While the service waits for Postgres or Kafka at its start, the manager is asked
// for more time; a process that is stuck there does not ask. No failure to speak
// to the manager ends or delays the service.
//
// It leaves to others what up and alive mean, and the unit file.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

const (
	// tick is how often the service is looked at; a start is told at most this
	// late.
	tick = time.Second
	// moreTime is what a service that is not up yet asks for at each tick.
	moreTime = 30 * time.Second
	// patience bounds one message: the manager may be busy, never we.
	patience = time.Second
)

// Status is how a service is.
type Status struct {
	Up    bool   // was ready once, or waits for a person
	Alive bool   // its loop turns
	Line  string // for people, one line
}

// Notifier speaks to the manager of this process. The nil Notifier has nobody to
// speak to.
type Notifier struct {
	socket   string
	watchdog time.Duration // 0: nobody waits for signs of life
	log      zerolog.Logger
	tick     time.Duration
}

// New returns the notifier for an environment as os.Environ gives it, and nil if
// there is no manager that listens. pid is the process's own: a watchdog that
// waits for another process is not fed.
func New(environ []string, pid int, log zerolog.Logger) *Notifier {
	env := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	socket := env["NOTIFY_SOCKET"]
	if socket == "" {
		return nil
	}
	n := &Notifier{socket: socket, log: log.With().Str("component", "systemd").Logger(), tick: tick}
	if whom, set := env["WATCHDOG_PID"]; !set || whom == strconv.Itoa(pid) {
		if usec, err := strconv.ParseInt(env["WATCHDOG_USEC"], 10, 64); err == nil && usec > 0 {
			n.watchdog = time.Duration(usec) * time.Microsecond
			n.tick = min(n.tick, n.watchdog/3)
		}
	}
	return n
}

// Run reports what look says until ended is over, and that the service stops
// once stopping is. look is called about once a second. Run returns nil.
func (n *Notifier) Run(stopping, ended context.Context, look func() Status) error {
	if n == nil {
		return nil
	}
	var told struct {
		up, stops, silent bool
		line              string
	}
	for {
		now := look()
		var say []string
		if now.Up && !told.up {
			say = append(say, "READY=1")
		}
		if !now.Up && !told.up && now.Alive {
			say = append(say, "EXTEND_TIMEOUT_USEC="+strconv.FormatInt(moreTime.Microseconds(), 10))
		}
		stops := stopping.Err() != nil
		if stops && !told.stops {
			say = append(say, "STOPPING=1")
		}
		if line := oneLine(now.Line); line != told.line {
			say, told.line = append(say, "STATUS="+line), line
		}
		if now.Alive && n.watchdog > 0 {
			say = append(say, "WATCHDOG=1")
		}
		switch err := n.send(say); {
		case err == nil:
			told.up, told.stops = told.up || now.Up, told.stops || stops
			told.silent = false
		case !told.silent:
			told.silent, told.line = true, ""
			n.log.Warn().Err(err).Str("hint", "the unit needs NotifyAccess=main, and RestrictAddressFamilies has to allow AF_UNIX").
				Msg("the service manager does not hear us")
		}
		wake := stopping.Done()
		if stops {
			wake = nil // it is told; what is left is to end
		}
		select {
		case <-ended.Done():
			if stopping.Err() != nil && !told.stops {
				_ = n.send([]string{"STOPPING=1"}) // it ended as soon as it was told to stop
			}
			return nil
		case <-wake:
		case <-time.After(n.tick):
		}
	}
}

// oneLine keeps a text from becoming a message of its own.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
}

// errForm is an address that this package does not speak to.
var errForm = errors.New("NOTIFY_SOCKET is neither a path nor an abstract socket")

// send is one datagram. The socket is opened for each, so that nothing has to be
// known about a manager that was replaced meanwhile.
func (n *Notifier) send(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	if n.socket[0] != '/' && n.socket[0] != '@' {
		return errForm
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: n.socket})
	if err != nil {
		return fmt.Errorf("dial NOTIFY_SOCKET: %w", err)
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("bound the notification: %w", err)
	}
	if _, err := conn.Write([]byte(strings.Join(lines, "\n"))); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}
