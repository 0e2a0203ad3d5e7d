package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdwall/outbox-relay/internal/fault"
)

// relay is `serve` of the same binary as a child process: the code path of
// production, and something that can be killed.
type relay struct {
	exe string
	env []string
	log *tail

	child *child // nil while it does not run
}

func newRelay(exe string, env []string) *relay {
	return &relay{exe: exe, env: env, log: &tail{limit: 25}}
}

func (r *relay) start() error {
	cmd := exec.Command(r.exe, "serve", "--exit-on-halt")
	cmd.Env = r.env
	cmd.Stdout, cmd.Stderr = r.log, r.log
	cmd.WaitDelay = time.Second
	bind(cmd, nil, syscall.SIGKILL)
	c, err := spawn(cmd)
	if err != nil {
		return fmt.Errorf("start serve: %w", err)
	}
	r.child = c
	return nil
}

// kill is SIGKILL: no drain, no abort, no farewell. A relay that had ended by
// itself before is an error.
func (r *relay) kill() error {
	if errors.Is(r.child.Kill(), os.ErrProcessDone) {
		return r.died()
	}
	<-r.child.gone
	r.child = nil
	return nil
}

// stop asks for a drain and waits for it, for as long as the context lasts.
func (r *relay) stop(ctx context.Context) error {
	if r.child == nil {
		return nil
	}
	c := r.child
	if errors.Is(c.Signal(syscall.SIGTERM), os.ErrProcessDone) {
		return r.died()
	}
	r.child = nil
	select {
	case <-c.gone:
		if c.err != nil {
			return fmt.Errorf("relay stopped on request with %w", c.err)
		}
		return nil
	case <-ctx.Done():
		_ = c.Kill() // it may be gone by now
		<-c.gone
		return fmt.Errorf("stop the relay: %w", ctx.Err())
	}
}

func (r *relay) isGone() bool {
	select {
	case <-r.child.gone:
		return true
	default:
		return false
	}
}

// died is the error for a relay that nobody stopped.
func (r *relay) died() error {
	err := r.child.ended()
	r.child = nil
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fault.Wrap(err, fault.Runtime, "relay ended by itself").
		WithWhy("the relay's own reason is in its last lines above").WithFix("run serve with the same settings to see more")
}

// slot is what Postgres says about the relay's slot.
type slot struct {
	active    bool
	confirmed string
}

func lookAtSlot(ctx context.Context, conn *pgx.Conn, name string) (slot, error) {
	var s slot
	err := conn.QueryRow(ctx, `SELECT active, coalesce(confirmed_flush_lsn::text, '')
		FROM pg_replication_slots WHERE slot_name = $1`, name).Scan(&s.active, &s.confirmed)
	if errors.Is(err, pgx.ErrNoRows) {
		return slot{}, nil
	}
	return s, err
}

// awaitStreaming blocks until the relay holds its slot. From then on every
// commit is its business. Postgres has no notification for it.
func (r *relay) awaitStreaming(ctx context.Context, conn *pgx.Conn, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := lookAtSlot(ctx, conn, name)
		if err != nil {
			return fmt.Errorf("look at slot %s: %w", name, err)
		}
		if s.active && s.confirmed != "" {
			return nil
		}
		select {
		case <-r.child.gone:
			return r.died()
		case <-ctx.Done():
			return fmt.Errorf("wait for the relay to hold slot %s: %w", name, ctx.Err())
		case <-tick.C:
		}
	}
}
