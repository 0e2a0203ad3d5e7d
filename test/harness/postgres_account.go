package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is whom Postgres runs as: it refuses to run as root.
type account struct {
	name     string
	uid, gid int
	switched bool // not the user of the test binary
}

func postgresAccount() (account, error) {
	if uid := os.Getuid(); uid != 0 {
		return account{name: "self", uid: uid, gid: os.Getgid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil {
			return account{}, err
		}
		gid, err := strconv.Atoi(u.Gid)
		if err != nil {
			return account{}, err
		}
		return account{name: name, uid: uid, gid: gid, switched: true}, nil
	}
	return account{}, &MissingError{What: "unprivileged user", Err: errors.New("postgres does not run as root, and there is neither a user postgres nor nobody")}
}

// command runs as the account, in dir: Postgres' programs look up their
// working folder and fail in one they may not enter. The environment is bare,
// because PGPORT, PGDATA and their kin would be obeyed.
func (a account) command(dir, path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C", "TZ=UTC"}
	if a.switched {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}}
	}
	return cmd
}

// own hands a file or folder to the account.
func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// tempDir makes a folder that belongs to the account and that it can reach.
func (a account) tempDir() (string, error) {
	parents := []string{os.TempDir()}
	if a.switched {
		// TMPDIR may lie in root's own folders.
		parents = append(parents, "/tmp", "/var/tmp")
	}
	for _, parent := range parents {
		if a.switched && !passable(parent) {
			continue
		}
		dir, err := os.MkdirTemp(parent, "outbox-pg-")
		if err != nil {
			return "", err
		}
		if a.switched {
			if err := os.Chown(dir, a.uid, a.gid); err != nil {
				return "", errors.Join(err, os.RemoveAll(dir))
			}
		}
		return dir, nil
	}
	return "", fmt.Errorf("make a folder that %s can enter: none of %v will do", a.name, parents)
}

// passable reports whether everybody can pass through dir and all its parents.
func passable(dir string) bool {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}
