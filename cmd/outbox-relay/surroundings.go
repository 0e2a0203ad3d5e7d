package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/health"
	"github.com/holdwall/outbox-relay/internal/cgroup"
	"github.com/holdwall/outbox-relay/internal/systemd"
)

// notify tells systemd, if it listens, how a service is.
func notify(stopping, ended context.Context, environ []string, state *health.State, log zerolog.Logger) error {
	return systemd.New(environ, os.Getpid(), log).Run(stopping, ended, func() systemd.Status {
		return systemd.Status{Up: state.Up(), Alive: state.Alive(), Line: statusLine(state.Get())}
	})
}

// statusLine is a state as `systemctl status` shows it.
func statusLine(st health.Status) string {
	line := st.State
	if st.Role != "" {
		line += " as " + st.Role
	}
	if st.Code == "" {
		return line
	}
	line += ": " + st.Detail // begins with the code
	if st.Fix != "" {
		line += "; fix: " + st.Fix
	}
	return line
}

// memoryShare of a limit is for what the runtime counts; the rest is for stacks of
// the kernel, page tables and what is mapped.
const memoryShare = 0.9

// boundMemory has the runtime collect earlier where the system would kill the
// process for its memory. GOMEMLIMIT is stronger.
func boundMemory(environ []string, log zerolog.Logger) {
	limit, ok := cgroup.MemoryLimit(os.DirFS("/"))
	if !ok || has(environ, "GOMEMLIMIT") {
		return
	}
	bound := int64(float64(limit) * memoryShare)
	debug.SetMemoryLimit(bound)
	log.Info().Int64("limit_bytes", limit).Int64("bound_bytes", bound).Msg("memory is bounded by the control group")
}
