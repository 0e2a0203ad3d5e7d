package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// fetchVersion is the release fetched when none is installed.
const fetchVersion = embedded.V17

// cacheDir is where fetched binaries stay between runs. Root's home is closed
// to the user that Postgres runs as, so root gets the system's cache folder.
func cacheDir(as *identity) (string, error) {
	if as != nil {
		return "/var/cache/outbox-relay", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "outbox-relay"), nil
}

// fetchBinaries brings server binaries into the cache. The library that knows
// where they are offers no fetching alone: it starts a whole server, which as
// root it cannot, and which it detaches from its caller. So it runs in a child
// of its own, unprivileged, in a staging folder; a server that started and
// stopped there is known to work on this machine, and only then the binaries
// move to the cache.
func fetchBinaries(ctx context.Context, exe, cache string, as *identity) (binaries, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return binaries{}, fmt.Errorf("create cache folder: %w", err)
	}
	staging, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return binaries{}, fmt.Errorf("create staging folder: %w", err)
	}
	defer os.RemoveAll(staging)
	if err := os.Chmod(staging, 0o755); err != nil {
		return binaries{}, err
	}
	if err := as.own(staging); err != nil {
		return binaries{}, fmt.Errorf("hand over staging folder: %w", err)
	}
	// The running binary may lie where the unprivileged user cannot read.
	copied := filepath.Join(staging, "outbox-relay")
	if err := copyExecutable(exe, copied); err != nil {
		return binaries{}, fmt.Errorf("copy executable: %w", err)
	}
	spec, err := json.Marshal(supervisorSpec{FetchInto: staging})
	if err != nil {
		return binaries{}, err
	}
	cmd := exec.CommandContext(ctx, copied, PostgresCommand)
	cmd.Dir = staging
	// The library leaves its logs in the temporary folder: point it to one that
	// goes away.
	cmd.Env = append(os.Environ(), "TMPDIR="+staging, "HOME="+staging, "TZ=UTC", "LC_ALL=C")
	bind(cmd, as, syscall.SIGTERM)
	stdin, err := cmd.StdinPipe() // stays open: its end stops the child
	if err != nil {
		return binaries{}, err
	}
	defer stdin.Close()
	cmd.Cancel = stdin.Close
	cmd.WaitDelay = 2 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	c, err := spawn(cmd)
	if err != nil {
		return binaries{}, fmt.Errorf("start fetching child: %w", err)
	}
	_, _ = stdin.Write(append(spec, '\n')) // a child that died says so by its status
	if err := c.ended(); err != nil {
		return binaries{}, fmt.Errorf("fetch postgres %s: %w: %s", fetchVersion, err, lastLine(out.String()+errs.String()))
	}
	target := filepath.Join(cache, "postgres-"+string(fetchVersion))
	if err := settle(filepath.Join(staging, "pg"), target, as); err != nil {
		return binaries{}, err
	}
	return probe(ctx, filepath.Join(target, "bin"))
}

// settle moves a finished tree into place. Whoever comes second finds the
// first one's tree there and keeps it. As root the tree is taken back from the
// unprivileged user: what later runs execute should not be theirs to change.
func settle(from, to string, as *identity) error {
	if as != nil {
		err := filepath.WalkDir(from, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, os.Geteuid(), os.Getegid())
		})
		if err != nil {
			return fmt.Errorf("take over fetched binaries: %w", err)
		}
	}
	if err := os.Rename(from, to); err != nil {
		if _, there := os.Stat(filepath.Join(to, "bin", "postgres")); there == nil {
			return nil
		}
		return fmt.Errorf("move fetched binaries into the cache: %w", err)
	}
	return nil
}

// fetchInto runs the library once in the staging folder.
func fetchInto(dir string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	var log bytes.Buffer
	server := embedded.NewDatabase(embedded.DefaultConfig().
		Version(fetchVersion).
		Port(uint32(port)).
		CachePath(filepath.Join(dir, "archive")).
		RuntimePath(filepath.Join(dir, "run")).
		BinariesPath(filepath.Join(dir, "pg")).
		StartParameters(map[string]string{
			"listen_addresses":        "127.0.0.1",
			"unix_socket_directories": dir,
			"shared_buffers":          "4MB",
		}).
		StartTimeout(20 * time.Second).
		Logger(&log))
	if err := server.Start(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLine(log.String()))
	}
	return server.Stop()
}

// abandonFetch stops the server that the library may have detached.
func abandonFetch(dir string) {
	raw, err := os.ReadFile(filepath.Join(dir, "run", "data", "postmaster.pid"))
	if err != nil {
		return
	}
	var pid int
	if _, err := fmt.Sscan(string(raw), &pid); err == nil && pid > 1 {
		_ = syscall.Kill(pid, syscall.SIGQUIT)
	}
}

func copyExecutable(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Chmod(0o755), dst.Close())
}

// freePort returns a loopback port that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("look for a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
