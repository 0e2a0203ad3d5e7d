package cgroup

import (
	"os"
	"testing"
	"testing/fstest"
)

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  int64 // 0: none
	}{
		"no Linux": {nil, 0},
		"version 2 in a container": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "268435456\n",
		}, 268435456},
		"version 2, no limit": {map[string]string{
			"proc/self/cgroup": "0::/system.slice/a.service\n", "sys/fs/cgroup/system.slice/a.service/memory.max": "max\n",
		}, 0},
		"version 2, the group above is tighter": {map[string]string{
			"proc/self/cgroup": "0::/system.slice/a.service\n",
			"sys/fs/cgroup/system.slice/a.service/memory.max": "536870912\n",
			"sys/fs/cgroup/system.slice/memory.max":           "134217728\n",
		}, 134217728},
		"version 1": {map[string]string{
			"proc/self/cgroup": "12:memory:/a\n11:cpu,cpuacct:/b\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes":         "100000000\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":           "9223372036854771712\n",
			"sys/fs/cgroup/cpu,cpuacct/b/memory.limit_in_bytes":    "1\n",
			"sys/fs/cgroup/memory.limit_in_bytes":                  "2\n",
			"sys/fs/cgroup/memory/elsewhere/memory.limit_in_bytes": "3\n",
			"sys/fs/cgroup/memory/a/deeper/memory.limit_in_bytes":  "4\n",
		}, 100000000},
		"version 1 in a container that sees the host's path": {map[string]string{
			"proc/self/cgroup":                           "5:memory:/docker/abc\n0::/docker/abc\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "64000000\n",
		}, 64000000},
		"version 1, no limit": {map[string]string{
			"proc/self/cgroup":                           "5:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 0},
		"nonsense": {map[string]string{
			"proc/self/cgroup": "0::\nx\n0::/../../etc\n", "sys/fs/cgroup/memory.max": "-1\n",
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := fstest.MapFS{}
			for file, text := range c.files {
				root[file] = &fstest.MapFile{Data: []byte(text)}
			}
			got, ok := MemoryLimit(root)
			if want := c.want > 0; ok != want || ok && got != c.want {
				t.Errorf("%d, %v; want %d", got, ok, c.want)
			}
		})
	}
}

func TestThisMachine(t *testing.T) {
	t.Parallel()
	if n, ok := MemoryLimit(os.DirFS("/")); ok && n <= 0 {
		t.Errorf("a limit of %d", n)
	}
}
