package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// NewStandby copies a running server and starts the copy as its hot standby.
// It follows over a physical slot of the given name, with feedback, so that it
// can take over logical slots; from version 17 on it keeps them in step, if
// they are failover slots. settings are added to those of the primary. It is
// gone at the end of the test.
func NewStandby(t testing.TB, primary *PostgresServer, name string, settings map[string]string) *PostgresServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	pg, err := startStandby(ctx, primary, name, settings)
	need(t, err)
	pg.closeAfter(t)
	return pg
}

func startStandby(ctx context.Context, primary *PostgresServer, name string, settings map[string]string) (*PostgresServer, error) {
	cfg := primary.cfg
	cfg.Settings = maps.Clone(cfg.Settings)
	if cfg.Settings == nil {
		cfg.Settings = map[string]string{}
	}
	maps.Copy(cfg.Settings, map[string]string{
		"primary_conninfo":     fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres application_name=%s", loopback, primary.port, name),
		"primary_slot_name":    name,
		"hot_standby_feedback": "on",
		// A test is not to wait for what is only seldom told.
		"wal_receiver_status_interval": "1s",
		"wal_retrieve_retry_interval":  "200ms",
	})
	// What the primary waits for is not what its copy waits for.
	delete(cfg.Settings, "synchronized_standby_slots")
	delete(cfg.Settings, "synchronous_standby_names")
	if cfg.Version >= 17 {
		cfg.Settings["sync_replication_slots"] = "on"
	}
	maps.Copy(cfg.Settings, settings)
	pg, err := newPostgres(ctx, cfg)
	if err != nil {
		return nil, err
	}
	err = pg.copyFrom(ctx, primary, name)
	if err == nil {
		err = pg.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make standby %s: %w", name, err), pg.Close())
	}
	return pg, nil
}

// copyFrom makes the data of a standby: an online backup as pg_basebackup takes
// it, which is not among the programs that are fetched.
func (pg *PostgresServer) copyFrom(ctx context.Context, primary *PostgresServer, slot string) error {
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	pg.port = ports[0]
	pg.url = postgresURL(pg.port)
	conn, err := pgx.Connect(ctx, primary.URL(""))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	// The slot first: it keeps the WAL from the backup's beginning on.
	if _, err := conn.Exec(ctx, `SELECT pg_create_physical_replication_slot($1, true)`, slot); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `SELECT pg_backup_start('standby', true)`); err != nil {
		return err
	}
	if err := pg.copyData(primary.data()); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, `SELECT labelfile FROM pg_backup_stop(false)`).Scan(&label); err != nil {
		return err
	}
	for name, text := range map[string]string{"backup_label": label, "standby.signal": "", "postgresql.auto.conf": pg.settings()} {
		if err := pg.write(name, text); err != nil {
			return err
		}
	}
	return nil
}

// notCopied are folders whose contents a backup leaves out.
var notCopied = map[string]bool{
	"pg_wal": true, "pg_replslot": true, "pg_dynshmem": true, "pg_notify": true, "pg_serial": true,
	"pg_snapshots": true, "pg_stat_tmp": true, "pg_subtrans": true,
}

func (pg *PostgresServer) copyData(from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed since the folder was read, which recovery knows about
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := filepath.Join(pg.data(), rel)
		switch {
		case d.IsDir():
			if err := errors.Join(os.MkdirAll(to, 0o700), pg.as.own(to)); err != nil {
				return err
			}
			if notCopied[rel] {
				if rel == "pg_wal" {
					// Postgres makes these by itself only at initdb.
					for _, sub := range []string{"archive_status", "summaries"} {
						sub = filepath.Join(to, sub)
						if err := errors.Join(os.MkdirAll(sub, 0o700), pg.as.own(sub)); err != nil {
							return err
						}
					}
				}
				return filepath.SkipDir
			}
			return nil
		case rel == "postmaster.pid" || rel == "postmaster.opts" || !d.Type().IsRegular():
			return nil
		}
		src, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer src.Close()
		return errors.Join(writeFile(to, src, 0o600), pg.as.own(to))
	})
}

// write makes a file in the data folder.
func (pg *PostgresServer) write(name, text string) error {
	path := filepath.Join(pg.data(), name)
	return errors.Join(os.WriteFile(path, []byte(text), 0o600), pg.as.own(path))
}

// Promote makes a primary of a standby and returns when it is one.
func (pg *PostgresServer) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, pg.URL(""))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var done bool
	if err := conn.QueryRow(ctx, `SELECT pg_promote(true, 60)`).Scan(&done); err != nil || !done {
		return errors.Join(fmt.Errorf("promote: %t", done), err)
	}
	return nil
}

// AwaitSQL asks until the answer comes; "" stands for no row and for null.
func (pg *PostgresServer) AwaitSQL(ctx context.Context, db, sql, want string) error {
	conn, err := pgx.Connect(ctx, pg.URL(db))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var got *string
		err := conn.QueryRow(ctx, sql).Scan(&got)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		text := ""
		if got != nil {
			text = *got
		}
		if text == want {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is %q, not %q: %w", sql, text, want, context.Cause(ctx))
		}
	}
}
