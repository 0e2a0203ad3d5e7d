package main

import (
	"context"
	"fmt"
	"io"
	"os/user"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/holdwall/outbox-relay/internal/config"
	"github.com/holdwall/outbox-relay/internal/guard"
	"github.com/holdwall/outbox-relay/replication"
)

// pauseView is what pause and resume print; its keys are stable.
type pauseView struct {
	Relay  string     `json:"relay"`
	Paused bool       `json:"paused"`
	By     string     `json:"paused_by,omitempty"`
	Reason string     `json:"paused_reason,omitempty"`
	Since  *time.Time `json:"paused_since,omitempty"`
}

// pauseRelay sets the switch in the database, which every replica looks at.
func pauseRelay(ctx context.Context, cfg config.Config, all bool, reason string, out io.Writer, format string, log zerolog.Logger) error {
	relay := whichRelay(cfg, all)
	return atSwitch(ctx, cfg, log, func(conn *pgx.Conn) error {
		p, err := guard.SetPause(ctx, conn, relay, whoami(), reason)
		if err != nil {
			return err
		}
		return printPause(out, format, relay, p)
	})
}

func resumeRelay(ctx context.Context, cfg config.Config, all bool, out io.Writer, format string, log zerolog.Logger) error {
	relay := whichRelay(cfg, all)
	return atSwitch(ctx, cfg, log, func(conn *pgx.Conn) error {
		p, err := guard.EndPause(ctx, conn, relay)
		switch {
		case err != nil:
			return err
		case p != nil:
			return p.Fault() // of every relay: it was not asked to end that
		}
		return printPause(out, format, relay, nil)
	})
}

func printPause(out io.Writer, format, relay string, p *guard.Pause) error {
	v := pauseView{Relay: relay}
	if p != nil {
		v.Paused, v.By, v.Reason, v.Since = true, p.By, p.Reason, &p.Since
	}
	if format == formatJSON {
		return writeJSON(out, v)
	}
	name := "relay " + relay
	if relay == guard.Every {
		name = "every relay of the database"
	}
	if p == nil {
		fmt.Fprintf(out, "%s: not paused\n", name)
		return nil
	}
	fmt.Fprintf(out, "%s: paused by %s since %s: %s\nPostgres keeps the WAL meanwhile; outbox-relay resume goes on\n", name, p.By, p.Since.Format(time.RFC3339), p.Reason)
	return nil
}

func whichRelay(cfg config.Config, all bool) string {
	if all {
		return guard.Every
	}
	return cfg.Outbox.Name
}

// whoami is the person at the keyboard, for whoever wonders at night.
func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return name + "@" + instance()
}

// atSwitch connects with the stronger credentials if there are any.
func atSwitch(ctx context.Context, cfg config.Config, log zerolog.Logger, do func(*pgx.Conn) error) error {
	src, err := newParts(cfg, log).sourceConfig(true)
	if err != nil {
		return err
	}
	srv, err := replication.Connect(ctx, src)
	if err != nil {
		return err
	}
	defer srv.Close()
	return do(srv.Conn())
}
