// Package admin is the listener for those who may look inside and change
// something: pprof, the settings, dead letters with their payload, and the verbs
// pause, resume and replay.
//
// Its job is to let in whoever has the token and nobody else, and to leave a line
// in the log for each thing that was changed.
//
// Invariants: without a token that is set, nothing here but the read-only status
// is served. It is compared in constant time, taken from the Authorization header
// alone, and shown nowhere. A browser that was sent here by another site is
// refused, also with the token: there is no CORS, Origin and Sec-Fetch-Site have to
// be this server's own, and a loopback listener answers to loopback names only,
// so that a name that was pointed here does not count. No request is waited for
// longer than the time-outs of the server, and no body is read beyond its limit.
//
// It leaves to others what the verbs do: it knows functions.
package admin

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/fault"
	"github.com/holdwall/outbox-relay/internal/secret"
)

// DefaultAddr is where the listener is if nobody says otherwise.
const DefaultAddr = "127.0.0.1:8081"

// leastToken is how long a token has to be, in bytes.
const leastToken = 16

// Config says where to listen and who may come in.
type Config struct {
	Addr  string      `name:"admin-addr" default:"127.0.0.1:8081" placeholder:"HOST:PORT" help:"Where pprof and the verbs that change something are served; off: nowhere."`
	Token secret.Text `name:"admin-token" placeholder:"TOKEN" help:"What such a request has to bring; without one nothing can be changed over HTTP."`
}

// Off tells whether there is to be no listener.
func (c Config) Off() bool { return c.Addr == "" || strings.EqualFold(c.Addr, "off") }

// Validate returns what is wrong.
func (c Config) Validate() []*fault.Error {
	var faults []*fault.Error
	if text := c.Token.Reveal(); c.Token.Set() {
		switch {
		case strings.TrimSpace(text) != text || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
			faults = append(faults, fault.New(fault.ConfigInvalid, "ADMIN_TOKEN has a character that no header can carry").
				WithWhy("it is sent in the header Authorization: Bearer <token>").WithFix("ADMIN_TOKEN=$(openssl rand -hex 32)"))
		case len(text) < leastToken:
			faults = append(faults, fault.New(fault.ConfigInvalid, "ADMIN_TOKEN has %d characters", len(text)).
				WithWhy("less than %d can be guessed", leastToken).WithFix("ADMIN_TOKEN=$(openssl rand -hex 32)"))
		}
	}
	if c.Off() {
		return faults
	}
	if err := (health.Config{Addr: c.Addr}).Validate(); err != nil {
		return append(faults, fault.New(fault.ConfigInvalid, "ADMIN_ADDR %s", err).
			WithWhy("it is host:port, :port for every interface, or off").WithFix("ADMIN_ADDR=%s", DefaultAddr))
	}
	if !c.loopback() && !c.Token.Set() {
		faults = append(faults, fault.New(fault.AdminExposed, "ADMIN_ADDR is %s, and ADMIN_TOKEN is not set", c.Addr))
	}
	return faults
}

// loopback tells whether only this host can reach the address.
func (c Config) loopback() bool {
	host, _, err := net.SplitHostPort(c.Addr)
	return err == nil && localName(host)
}

func localName(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// BindError says that the address could not be listened on.
type BindError struct {
	Addr string
	Err  error
}

func (e *BindError) Error() string { return fmt.Sprintf("listen on ADMIN_ADDR %s: %s", e.Addr, e.Err) }

// Unwrap returns what the system said.
func (e *BindError) Unwrap() error { return e.Err }
