// Package health is the HTTP face of a running relay: probes, a report and the
// metrics.
//
// Its job is to answer four questions from outside: does the process turn
// (/livez, /healthz), may it be counted on (/readyz), has it come up once
// (/startupz), and what is the matter (/api/health), and to serve /metrics.
//
// Invariants: liveness depends on the program's own beat and never on Postgres
// or Kafka, because a restart cures neither. A halted relay stays alive and is
// unready, with code, why and fix in the answer. No answer waits longer than
// the time-out of a check, and checks run at most once a second however often
// somebody asks. No answer holds a secret: only what was put into a Status or a
// Result is shown.
//
// It leaves to others what the states mean and what is checked: it knows a
// Status that its owner sets and Checks that are functions. It imports nothing
// of ours, so a failure of its own is a *BindError for the command to name.
package health

import (
	"fmt"
	"net"
	"strconv"
)

// Config says where to listen and what to report.
type Config struct {
	Addr         string `name:"health-addr" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Where probes, report, metrics and the page are served."`
	IncludeKafka bool   `name:"health-include-kafka" default:"false" help:"Ask Kafka too for /api/health."`
	BareNames    bool   `name:"metrics-bare-names" default:"true" help:"Also export kafka_connections and its kin under these names, without _total. false: offer OpenMetrics, which forbids that."`
}

// Validate returns what is wrong with the address, or nil.
func (c Config) Validate() error {
	_, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return fmt.Errorf("%q is no host:port", c.Addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has no port from 0 to 65535", c.Addr)
	} else if n == 0 && port != "0" {
		return fmt.Errorf("%q has an odd way to write port 0", c.Addr)
	}
	return nil
}

// BindError says that the address could not be listened on.
type BindError struct {
	Addr string
	Err  error
}

func (e *BindError) Error() string { return "listen on HEALTH_ADDR " + e.Addr + ": " + e.Err.Error() }

// Unwrap returns what the system said.
func (e *BindError) Unwrap() error { return e.Err }
