package demo

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// identity is the unprivileged user that Postgres runs as when the demo runs
// as root: Postgres refuses uid 0.
type identity struct{ uid, gid uint32 }

// unprivileged returns nil for an ordinary user. For root it is `nobody`: the
// `postgres` user may own the data of a real server, which a demo has no
// business to be able to touch.
func unprivileged() *identity {
	if os.Geteuid() != 0 {
		return nil
	}
	id := &identity{uid: 65534, gid: 65534}
	u, err := user.Lookup("nobody")
	if err != nil {
		return id
	}
	uid, errU := strconv.ParseUint(u.Uid, 10, 32)
	gid, errG := strconv.ParseUint(u.Gid, 10, 32)
	if errU != nil || errG != nil || uid == 0 {
		return id
	}
	return &identity{uid: uint32(uid), gid: uint32(gid)}
}

func (id *identity) credential() *syscall.Credential {
	return &syscall.Credential{Uid: id.uid, Gid: id.gid, Groups: []uint32{}}
}

// own hands a folder to the identity; for an ordinary user it is theirs
// already.
func (id *identity) own(dir string) error {
	if id == nil {
		return nil
	}
	return os.Chown(dir, int(id.uid), int(id.gid))
}

// reaches tells whether the identity can walk to a folder: root's own
// temporary folder is often closed to others.
func (id *identity) reaches(dir string) bool {
	if id == nil {
		return true
	}
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
