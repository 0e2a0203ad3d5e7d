package demo

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A demo that is killed cannot clean up. Its children must do it: no process
// and no folder may be left.
func TestKilledDemoLeavesNothing(t *testing.T) {
	cmd := exec.Command(executable(t), "demo")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var folder string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := regexp.MustCompile(`socket in (\S+)`).FindStringSubmatch(lines.Text()); m != nil {
			folder = m[1]
		}
		if strings.Contains(lines.Text(), "committed") {
			break // everything runs
		}
	}
	family := descendants(t, cmd.Process.Pid)
	if len(family) < 4 { // supervisor, postmaster, its children, relay
		t.Errorf("demo has only the descendants %v", family)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	deadline := time.Now().Add(10 * time.Second)
	for {
		var left []string
		for _, pid := range family {
			if s, ok := processState(pid); ok && s.state != "Z" {
				left = append(left, fmt.Sprintf("%d %s", pid, s.name))
			}
		}
		_, err := os.Stat(folder)
		if len(left) == 0 && errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: processes %v, folder %s: %v", left, folder, err)
		}
		time.Sleep(20 * time.Millisecond) // the system tells nobody when a stranger ends
	}
}

type procState struct {
	name, state string
	parent      int
}

func processState(pid int) (procState, bool) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return procState{}, false
	}
	from, to := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
	fields := strings.Fields(string(raw[to+1:]))
	parent, err := strconv.Atoi(fields[1])
	return procState{name: string(raw[from+1 : to]), state: fields[0], parent: parent}, err == nil
}

func descendants(t *testing.T, root int) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	parents := map[int]int{}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if s, ok := processState(pid); ok {
			parents[pid] = s.parent
		}
	}
	var out []int
	for pid := range parents {
		for p := parents[pid]; p > 1; p = parents[p] {
			if p == root {
				out = append(out, pid)
				break
			}
		}
	}
	return out
}
