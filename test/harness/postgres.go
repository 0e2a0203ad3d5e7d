package harness

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// StopMode is one of the ways in which Postgres stops.
type StopMode string

const (
	// Smart waits until all clients have gone.
	Smart StopMode = "smart"
	// Fast ends the sessions, but waits until each walsender's client has
	// confirmed all WAL.
	Fast StopMode = "fast"
	// Immediate goes at once; the next start recovers.
	Immediate StopMode = "immediate"
)

func (m StopMode) signal() (syscall.Signal, error) {
	switch m {
	case Smart:
		return syscall.SIGTERM, nil
	case Fast:
		return syscall.SIGINT, nil
	case Immediate:
		return syscall.SIGQUIT, nil
	}
	return 0, fmt.Errorf("stop postgres: no mode %q", string(m))
}

// PostgresServer is one cluster of its own with one postmaster, a direct
// child of the test binary. Its methods are for one goroutine at a time.
type PostgresServer struct {
	cfg  PostgresConfig
	bin  string
	as   account
	dir  string
	port int
	log  serverLog
	proc *process
	url  *url.URL // of the maintenance database
}

// StartPostgres makes a cluster, starts it and returns when it answers. ctx
// bounds the start only. The caller owes a Close.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*PostgresServer, error) {
	pg, err := newPostgres(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := pg.initCluster(ctx); err != nil {
		return nil, errors.Join(err, pg.Close())
	}
	if err := pg.Start(ctx); err != nil {
		return nil, errors.Join(err, pg.Close())
	}
	return pg, nil
}

// newPostgres is a server with a folder and nothing in it.
func newPostgres(ctx context.Context, cfg PostgresConfig) (*PostgresServer, error) {
	as, err := postgresAccount()
	if err != nil {
		return nil, err
	}
	bin, err := findPostgres(ctx, as, cfg.Version)
	if err != nil {
		return nil, err
	}
	dir, err := as.tempDir()
	if err != nil {
		return nil, err
	}
	return &PostgresServer{cfg: cfg, bin: bin, as: as, dir: dir, log: serverLog(filepath.Join(dir, "postgres.log"))}, nil
}

// NewPostgres starts a server for one test, or skips the test where Postgres
// is not installed. It is gone at the end of the test; if the test failed, the
// server's last words are in its log.
func NewPostgres(t testing.TB, cfg PostgresConfig) *PostgresServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	pg, err := StartPostgres(ctx, cfg)
	need(t, err)
	pg.closeAfter(t)
	return pg
}

func (pg *PostgresServer) closeAfter(t testing.TB) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("postgres on port %d:\n%s", pg.port, pg.Log(30))
		}
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (pg *PostgresServer) data() string { return filepath.Join(pg.dir, "data") }

// Start runs the postmaster on the data and port it had before and returns
// when it answers.
func (pg *PostgresServer) Start(ctx context.Context) error {
	if pg.dir == "" {
		return errNotOurs
	}
	if pg.proc != nil && pg.proc.running() {
		return errors.New("start postgres: it is running")
	}
	out, err := pg.log.open()
	if err != nil {
		return err
	}
	defer out.Close() // the child has its own
	cmd := pg.as.command(pg.dir, filepath.Join(pg.bin, "postgres"), "-D", pg.data())
	cmd.Stdout, cmd.Stderr = out, out
	// SIGQUIT as last will, and not SIGKILL: the postmaster takes its backends
	// and its shared memory along.
	if pg.proc, err = start(cmd, syscall.SIGQUIT); err != nil {
		return err
	}
	if err := pg.waitReady(ctx); err != nil {
		return errors.Join(fmt.Errorf("start postgres: %w\n%s", err, pg.log.last(30)), pg.Kill())
	}
	return nil
}

// waitReady connects until it is let in: a server in recovery refuses.
func (pg *PostgresServer) waitReady(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, pg.URL(""))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-tick.C:
		case <-pg.proc.done:
			return fmt.Errorf("it ended: %w", pg.proc.err)
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// URL returns how to connect to a database; "" is the maintenance database.
func (pg *PostgresServer) URL(db string) string {
	u := *pg.url
	if db != "" {
		u.Path = "/" + db
	}
	return u.String()
}

// Stop asks the server to stop and waits until it has. If ctx ends first the
// server goes on stopping, and another mode may be tried.
func (pg *PostgresServer) Stop(ctx context.Context, mode StopMode) error {
	if pg.proc == nil {
		return errNotOurs
	}
	sig, err := mode.signal()
	if err != nil {
		return err
	}
	if err := pg.proc.signal(sig); err != nil {
		return err
	}
	return pg.proc.wait(ctx)
}

// RestartImmediate is a crash and the recovery from it.
func (pg *PostgresServer) RestartImmediate(ctx context.Context) error {
	if err := pg.Stop(ctx, Immediate); err != nil {
		return err
	}
	return pg.Start(ctx)
}

// Kill ends the postmaster and all its children with SIGKILL and returns when
// all have gone: a backend that lingers would refuse the next start. The
// postmaster is frozen first, so that it neither starts new children nor
// reacts to the loss of one.
func (pg *PostgresServer) Kill() error {
	if pg.proc == nil {
		return errNotOurs
	}
	if !pg.proc.running() {
		return nil
	}
	if err := pg.proc.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	kids, err := children(pg.proc.pid())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, kid := range kids {
		err = errors.Join(err, end(ctx, kid))
	}
	return errors.Join(err, pg.proc.kill())
}

// Pause freezes the postmaster and all its backends: connections stay, nothing
// is answered.
func (pg *PostgresServer) Pause() error { return pg.sendAll(syscall.SIGSTOP) }

// Resume ends a Pause.
func (pg *PostgresServer) Resume() error { return pg.sendAll(syscall.SIGCONT) }

func (pg *PostgresServer) sendAll(sig syscall.Signal) error {
	if pg.proc == nil {
		return errNotOurs
	}
	// The postmaster first: once frozen it starts no further backend.
	if err := pg.proc.signal(sig); err != nil || !pg.proc.running() {
		return err
	}
	kids, err := children(pg.proc.pid())
	if err != nil {
		return fmt.Errorf("list the backends: %w", err)
	}
	for _, kid := range kids {
		if err := syscall.Kill(kid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal %v to backend %d: %w", sig, kid, err)
		}
	}
	return nil
}

// Log returns the last n lines that the server wrote.
func (pg *PostgresServer) Log(n int) string {
	if pg.dir == "" {
		return "(given by the environment)"
	}
	return pg.log.last(n)
}

// Close ends the server at once and removes its data. It asks before it kills:
// a killed postmaster leaves its shared memory segment to the next start, and
// there will be none.
func (pg *PostgresServer) Close() error {
	if pg.dir == "" {
		return nil
	}
	var err error
	if pg.proc != nil && pg.proc.running() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if errors.Join(pg.Resume(), pg.Stop(ctx, Immediate)) != nil {
			err = pg.Kill()
		}
	}
	return errors.Join(err, os.RemoveAll(pg.dir))
}

func postgresURL(port int) *url.URL {
	return &url.URL{Scheme: "postgres", User: url.User("postgres"), Host: loopback + ":" + strconv.Itoa(port), Path: "/postgres", RawQuery: "sslmode=disable"}
}
