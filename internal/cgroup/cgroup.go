// Package cgroup reads the memory limit that the system has set for this
// process.
//
// Its job is one number: the lowest limit of the process's control group and of
// those above it, in version 1 and 2 of the interface. With it the runtime can
// collect earlier instead of being killed.
//
// Invariants: nothing is changed, and whatever cannot be read is no limit. It
// leaves to the caller what follows from the number.
package cgroup

import (
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// none is a limit from which on there is none: version 1 says a number near the
// top where version 2 says max.
const none = math.MaxInt64 >> 4

// MemoryLimit returns the limit in bytes. root is the file system from / on.
func MemoryLimit(root fs.FS) (limit int64, ok bool) {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	limit = none
	for line := range strings.Lines(string(text)) {
		// hierarchy-id:controllers:path
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch controllers := strings.Split(parts[1], ","); {
		case parts[0] == "0" && parts[1] == "":
			limit = min(limit, lowest(root, "sys/fs/cgroup", parts[2], "memory.max"))
		case len(controllers) == 1 && controllers[0] == "memory":
			limit = min(limit, lowest(root, "sys/fs/cgroup/memory", parts[2], "memory.limit_in_bytes"))
		}
	}
	return limit, limit < none
}

// lowest looks at a group and all above it. In a container the path may be the
// host's, which is not there; what is mounted is then the container's own group,
// and the walk ends with it.
func lowest(root fs.FS, mount, group, file string) int64 {
	limit := int64(none)
	for at := path.Clean("/" + group); ; at = path.Dir(at) {
		if text, err := fs.ReadFile(root, path.Join(mount, at, file)); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
				limit = min(limit, n)
			}
		}
		if at == "/" {
			return limit
		}
	}
}
