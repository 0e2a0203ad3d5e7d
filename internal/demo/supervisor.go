package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresCommand is the hidden command whose action is SupervisePostgres.
const PostgresCommand = "demo-postgres"

// supervisorSpec is the first line of the supervisor's standard input. The
// rest of the input holds nothing; its end means "stop".
type supervisorSpec struct {
	Fast      bool   `json:"fast,omitempty"`
	Keep      bool   `json:"keep,omitempty"`
	FetchInto string `json:"fetch_into,omitempty"` // fetch binaries to this folder, and exit
}

// supervisorReport is one line of its standard output.
type supervisorReport struct {
	Note    string `json:"note,omitempty"`  // progress worth showing
	Error   string `json:"error,omitempty"` // the last line, if set
	Ready   bool   `json:"ready,omitempty"` // Postgres accepts connections
	Dir     string `json:"dir,omitempty"`
	Socket  string `json:"socket,omitempty"`
	Version string `json:"version,omitempty"`
	PID     int    `json:"pid,omitempty"`
}

// SupervisePostgres is the action of the hidden command: it owns one temporary
// Postgres from initdb to the removal of its folder. It ends when its standard
// input ends, which is the one signal that also a killed parent sends.
func SupervisePostgres(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the specification: %w", err)
	}
	var spec supervisorSpec
	if err := json.Unmarshal(line, &spec); err != nil {
		return fmt.Errorf("read the specification: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in) // returns at the end of the input
		cancel()
	}()
	if spec.FetchInto != "" {
		return superviseFetch(ctx, spec.FetchInto)
	}
	s := &supervisor{spec: spec, out: json.NewEncoder(stdout), as: unprivileged()}
	err = s.run(ctx)
	if err != nil && ctx.Err() == nil {
		s.report(supervisorReport{Error: err.Error()})
	}
	if ctx.Err() != nil {
		return nil // told to stop: whatever broke on the way out is of no interest
	}
	return err
}

func superviseFetch(ctx context.Context, dir string) error {
	done := make(chan error, 1)
	go func() { done <- fetchInto(dir) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		abandonFetch(dir)
		return ctx.Err()
	}
}

type supervisor struct {
	spec supervisorSpec
	out  *json.Encoder
	as   *identity
	dir  string
}

// report is best effort: a parent that no longer reads has closed our input
// too, and that is what ends the supervisor.
func (s *supervisor) report(r supervisorReport) { _ = s.out.Encode(r) }

func (s *supervisor) run(ctx context.Context) (err error) {
	bin, err := s.binaries(ctx)
	if err != nil {
		return err
	}
	if s.dir, err = s.makeFolder(); err != nil {
		return err
	}
	if !s.spec.Keep {
		defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	}
	if err := s.initdb(ctx, bin); err != nil {
		return err
	}
	return s.serve(ctx, bin)
}

func (s *supervisor) binaries(ctx context.Context) (binaries, error) {
	cache, err := cacheDir(s.as)
	if err != nil {
		return binaries{}, err
	}
	if bin, ok := findBinaries(ctx, os.Getenv("PATH"), distributionFolders(), cache); ok {
		return bin, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return binaries{}, err
	}
	s.report(supervisorReport{Note: fmt.Sprintf("no Postgres %d or newer found, fetching %s into %s", oldestPostgres, fetchVersion, cache)})
	return fetchBinaries(ctx, exe, cache, s.as)
}

// makeFolder creates the one folder of the demo. The socket lives in it, and
// the path of a socket is limited to about a hundred bytes.
func (s *supervisor) makeFolder() (string, error) {
	const longest = 60
	for _, base := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		if len(base) > longest || !s.as.reaches(base) {
			continue
		}
		dir, err := os.MkdirTemp(base, "outbox-demo-")
		if err != nil {
			continue
		}
		if err := s.as.own(dir); err != nil {
			return "", errors.Join(fmt.Errorf("hand over folder: %w", err), os.Remove(dir))
		}
		return dir, nil
	}
	return "", errors.New("no temporary folder that Postgres could use")
}

func (s *supervisor) data() string { return filepath.Join(s.dir, "data") }

func (s *supervisor) command(ctx context.Context, bin binaries, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(bin.dir, name), args...)
	cmd.Dir = s.dir
	// A fixed zone saves initdb a search through all zone files.
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C", "PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	bind(cmd, s.as, syscall.SIGQUIT)
	return cmd
}

func (s *supervisor) initdb(ctx context.Context, bin binaries) error {
	// Trust is safe here: the only way in is a socket inside a folder that is
	// closed to other users.
	cmd := s.command(ctx, bin, "initdb", "-D", s.data(), "-U", "outbox", "-A", "trust",
		"-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	// Asked nicely, initdb ends its own children before it goes.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	log := &tail{limit: 10}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = log, log, 3*time.Second
	c, err := spawn(cmd)
	if err == nil {
		err = c.ended()
	}
	if err != nil {
		return fmt.Errorf("initdb of Postgres %s: %w: %s", bin.version, err, log.last())
	}
	return nil
}

func (s *supervisor) serve(ctx context.Context, bin binaries) error {
	settings := []string{
		"listen_addresses=", "unix_socket_directories=" + s.dir, "unix_socket_permissions=0700",
		"wal_level=logical", "max_wal_senders=8", "max_replication_slots=8", "max_connections=40",
		"shared_buffers=32MB", "dynamic_shared_memory_type=mmap", // nothing outside the folder
		"jit=off", "logging_collector=off", "log_checkpoints=off",
	}
	if s.spec.Fast {
		// Not synchronous_commit=off: WAL is streamed once it is flushed, and
		// then the background writer would do that five times a second.
		settings = append(settings, "fsync=off", "full_page_writes=off")
	}
	args := []string{"-D", s.data()}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	log := &tail{limit: 40}
	cmd := s.command(context.WithoutCancel(ctx), bin, "postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = time.Second
	server, err := spawn(cmd)
	if err != nil {
		return fmt.Errorf("start Postgres %s: %w", bin.version, err)
	}
	if err := s.awaitReady(ctx, server); err != nil {
		s.stop(server)
		return fmt.Errorf("start Postgres %s: %w: %s", bin.version, err, log.last())
	}
	s.report(supervisorReport{Ready: true, Dir: s.dir, Socket: s.dir, Version: bin.version, PID: server.Pid})
	select {
	case <-ctx.Done():
		s.stop(server)
		return nil
	case <-server.gone:
		return fmt.Errorf("server ended by itself: %w: %s", server.err, log.last())
	}
}

// awaitReady connects until Postgres lets it in. There is no signal to wait
// for: the server's own tools poll as well.
func (s *supervisor) awaitReady(ctx context.Context, server *child) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, socketURL(s.dir))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-server.gone:
			return fmt.Errorf("server ended: %w", server.err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// stop ends Postgres at once if its data are about to be thrown away, and in
// order if they are kept.
func (s *supervisor) stop(server *child) {
	sig := syscall.SIGQUIT
	if s.spec.Keep {
		sig = syscall.SIGINT
	}
	_ = server.Signal(sig) // it may be gone already
	select {
	case <-server.gone:
	case <-time.After(5 * time.Second):
		_ = server.Kill()
		<-server.gone
	}
}

// socketURL addresses the temporary server.
func socketURL(dir string) string {
	return "postgres://outbox@/postgres?host=" + dir + "&sslmode=disable"
}
